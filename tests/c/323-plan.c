/* Commands for a running QEMU are planned from the JSON of its nodes; nothing is sent. */
#include "check.h"

static const char NODES[] =
    "[{\"node-name\":\"d0\",\"drv\":\"qcow2\",\"ro\":false,\"file\":\"/vm/d0.qcow2\",\"encrypted\":false,"
    "\"image\":{\"filename\":\"/vm/d0.qcow2\",\"format\":\"qcow2\",\"virtual-size\":1073741824,\"cluster-size\":65536,"
    "\"format-specific\":{\"type\":\"qcow2\",\"data\":{\"compat\":\"1.1\"}}},"
    "\"dirty-bitmaps\":[{\"name\":\"a\",\"recording\":true,\"persistent\":true,\"busy\":false,\"granularity\":65536,"
    "\"count\":131072}]}]";

static const char *const NODE[] = {"d0"};
static const size_t NODE_LEN[] = {2};

static struct checkmap_plan_request request_of(uint32_t verb, const char *name)
{
    struct checkmap_plan_request request = CHECKMAP_PLAN_REQUEST_INIT;
    request.verb = verb;
    request.nodes = NODE;
    request.node_lens = NODE_LEN;
    request.node_count = 1;
    request.name = name;
    request.name_len = strlen(name);
    return request;
}

/* The JSON that a request gives. */
static const char *planned(const struct checkmap_plan_request *request)
{
    static char json[4096];
    memset(json, 0, sizeof json);
    int64_t need = checkmap_plan_qmp(TEXT(NODES), request, NULL, 0);
    CHECK(need > 0 && need < (int64_t)sizeof json);
    EQUAL(checkmap_plan_qmp(TEXT(NODES), request, json, (size_t)need), need);
    FAILS(checkmap_plan_qmp(TEXT(NODES), request, json, (size_t)need - 1), ERANGE, CHECKMAP_ERROR_OUT_OF_RANGE);
    return json;
}

static int holds(const char *json, const char *words)
{
    return strstr(json, words) != NULL;
}

int main(void)
{
    struct checkmap_plan_request request = request_of(CHECKMAP_PLAN_CREATE, "b");
    const char *json = planned(&request);
    CHECK(holds(json, "\"transaction\"") && holds(json, "block-dirty-bitmap-add") && holds(json, "\"a->b\""));
    CHECK(holds(json, "block-dirty-bitmap-disable") && holds(json, "\"stall_ms\":0"));
    request.granularity = 4096;
    CHECK(holds(planned(&request), "4096"));
    request = request_of(CHECKMAP_PLAN_RENAME, "a");
    request.other = "z";
    request.other_len = 1;
    CHECK(holds(planned(&request), "\"z\""));
    request = request_of(CHECKMAP_PLAN_DELETE, "a");
    const char *const names[] = {"a"};
    const size_t lens[] = {1};
    request.names = names;
    request.name_lens = lens;
    request.name_count = 1;
    CHECK(holds(planned(&request), "block-dirty-bitmap-remove"));
    request = request_of(CHECKMAP_PLAN_DIFF, "a");
    request.export_name = "backup";
    request.export_name_len = 6;
    json = planned(&request);
    CHECK(holds(json, "block-export-add") && holds(json, "qemu:dirty-bitmap:a") && holds(json, "\"granularity\":65536"));

    /* What cannot be. */
    request = request_of(CHECKMAP_PLAN_CREATE, "a");
    FAILS(checkmap_plan_qmp(TEXT(NODES), &request, NULL, 0), EEXIST, CHECKMAP_ERROR_EXISTS);
    request = request_of(CHECKMAP_PLAN_CREATE, "b");
    FAILS(checkmap_plan_qmp(TEXT("no JSON"), &request, NULL, 0), EBADMSG, CHECKMAP_ERROR_DAMAGED);
    INVALID(checkmap_plan_qmp(NULL, 5, &request, NULL, 0));
    INVALID(checkmap_plan_qmp(TEXT(NODES), NULL, NULL, 0));
    request.node_count = 0;
    INVALID(checkmap_plan_qmp(TEXT(NODES), &request, NULL, 0));
    request = request_of(99, "b");
    INVALID(checkmap_plan_qmp(TEXT(NODES), &request, NULL, 0));
    request = request_of(CHECKMAP_PLAN_MERGE, "a");
    INVALID(checkmap_plan_qmp(TEXT(NODES), &request, NULL, 0));
    request = request_of(CHECKMAP_PLAN_DELETE, "a");
    INVALID(checkmap_plan_qmp(TEXT(NODES), &request, NULL, 0));
    request.flags = CHECKMAP_OPT_DRY_RUN;
    INVALID(checkmap_plan_qmp(TEXT(NODES), &request, NULL, 0));
    request = request_of(CHECKMAP_PLAN_CREATE, "b");
    request.size = 8;
    INVALID(checkmap_plan_qmp(TEXT(NODES), &request, NULL, 0));
    request = request_of(CHECKMAP_PLAN_RENAME, "x");
    request.other = "z";
    request.other_len = 1;
    FAILS(checkmap_plan_qmp(TEXT(NODES), &request, NULL, 0), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    const char *const other[] = {"d1"};
    request.nodes = other;
    FAILS(checkmap_plan_qmp(TEXT(NODES), &request, NULL, 0), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    return 0;
}
