#![forbid(unsafe_code)]
//! Owns the question which ways a hypervisor has of keeping a moment without harm to the guest, asked of its own description of its
//! commands. Must never know how they are used.

use super::super::answer;
use super::super::work::Work;
use crate::error::Result;
use serde_json::Value;

/// The option that says what happens where a copy fails, and the one that says how many seconds it may take.
pub(super) const ON_ERROR: &str = "on-cbw-error";
pub(super) const TIMEOUT: &str = "cbw-timeout";

/// What this hypervisor knows of keeping a guest's writes from harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Knows {
    /// Its backup job knows the rule.
    pub(super) job_rule: bool,
    /// Its backup job knows how long a copy may take.
    pub(super) job_timeout: bool,
    /// Its filter knows both.
    pub(super) filter: bool,
}

impl Knows {
    /// Asks the hypervisor.
    pub(super) fn ask(work: &mut Work<'_>) -> Result<Self> {
        let schema = work.ask("query-qmp-schema", &Value::Null)?;
        Ok(Self::read(answer::items(&schema, "query-qmp-schema")?))
    }

    fn read(schema: &[Value]) -> Self {
        let job = arguments_of(schema, "blockdev-backup");
        // A schema has no names of types: the options of the filter are known by their own names.
        let is_filter = |entry: &Value| {
            let members = members_of(entry);
            ["file", "target", ON_ERROR, TIMEOUT].iter().all(|name| members.contains(name))
        };
        Self {
            job_rule: job.contains(&ON_ERROR),
            job_timeout: job.contains(&TIMEOUT),
            filter: schema.iter().any(is_filter),
        }
    }
}

/// The names of the members of an object.
fn members_of(entry: &Value) -> Vec<&str> {
    let members = entry.get("members").and_then(Value::as_array);
    members.into_iter().flatten().filter_map(|member| member.get("name")?.as_str()).collect()
}

/// The names of the arguments of a command.
fn arguments_of<'a>(schema: &'a [Value], command: &str) -> Vec<&'a str> {
    let named = |name: &str| schema.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(name));
    let kind = named(command).and_then(|command| command.get("arg-type")?.as_str());
    kind.and_then(named).map(members_of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::Knows;
    use serde_json::{Value, json};

    fn schema(job: &[&str], filter: &[&str]) -> Vec<Value> {
        let members =
            |names: &[&str]| names.iter().map(|name| json!({ "name": name, "type": "str" })).collect::<Vec<_>>();
        vec![
            json!({ "name": "blockdev-backup", "meta-type": "command", "arg-type": "17", "ret-type": "0" }),
            json!({ "name": "17", "meta-type": "object", "members": members(job) }),
            json!({ "name": "18", "meta-type": "object", "members": members(filter) }),
            json!({ "name": "19", "meta-type": "enum", "values": ["on-cbw-error"] }),
        ]
    }

    #[test]
    fn each_way_is_known_by_its_own_arguments() {
        let old = ["file", "target", "bitmap"];
        let new = ["file", "target", "bitmap", "on-cbw-error", "cbw-timeout"];
        let job = ["sync", "target", "device", "on-cbw-error"];
        let of = |job_rule, job_timeout, filter| Knows { job_rule, job_timeout, filter };
        assert_eq!(Knows::read(&schema(&["sync", "target"], &old)), of(false, false, false));
        assert_eq!(Knows::read(&schema(&["sync", "target"], &new)), of(false, false, true));
        assert_eq!(Knows::read(&schema(&job, &old)), of(true, false, false));
        assert_eq!(Knows::read(&schema(&[&job[..], &["cbw-timeout"]].concat(), &new)), of(true, true, true));
        assert_eq!(Knows::read(&[]), of(false, false, false));
    }
}
