//! NBD URIs.

use checkmap::ErrorKind;
use checkmap::nbd::{Address, Uri};

fn tcp(host: &str, port: u16, export: &str) -> Uri {
    Uri { address: Address::Tcp(host.into(), port), export: export.into() }
}

#[test]
fn uris_of_each_kind() {
    let unix = |path: &str, export: &str| Uri { address: Address::Unix(path.into()), export: export.into() };
    for (text, uri) in [
        ("nbd://host", tcp("host", 10809, "")),
        ("nbd://host/", tcp("host", 10809, "")),
        ("nbd://host:1/disk/a", tcp("host", 1, "disk/a")),
        ("nbd://host:/d", tcp("host", 10809, "d")),
        ("nbd://127.0.0.1:65535/%2Fa%20b", tcp("127.0.0.1", 65535, "/a b")),
        ("nbd://[::1]/x", tcp("::1", 10809, "x")),
        ("nbd://[fe80::1]:99/x", tcp("fe80::1", 99, "x")),
        ("nbd:///x", tcp("localhost", 10809, "x")),
        ("nbd+unix:///?socket=/run/a", unix("/run/a", "")),
        ("nbd+unix:///d%3f?socket=a%26b", unix("a&b", "d?")),
        ("nbd+unix://?socket=a", unix("a", "")),
    ] {
        assert!(Uri::is_one(text.as_bytes()), "{text}");
        assert_eq!(Uri::parse(text).unwrap(), uri, "{text}");
    }
    assert_eq!(Uri::parse("nbd://h/%ff%00").unwrap().export, [0xff, 0]);
}

#[test]
fn others_are_refused_with_a_reason() {
    for text in [
        "",
        "disk.qcow2",
        "./nbd://host",
        "http://host/",
        "nbdkit://host",
        "nbd:unix:/a",
        "nbd://host:0/",
        "nbd://host:65536/",
        "nbd://host:+1/",
        "nbd://host:1:2/",
        "nbd://user@host/",
        "nbd://[::1/",
        "nbd://[::1]1/",
        "nbd://[host]/",
        "nbd://host/%",
        "nbd://host/%4",
        "nbd://host/%+1",
        "nbd://host/#a",
        "nbd://host/?socket=/a",
        "nbd://host/?tls=1",
        "nbd+unix:///a",
        "nbd+unix://host/?socket=/a",
        "nbd+unix:///?socket=",
        "nbd+unix:///?socket=%00",
        "nbd+unix:///?socket=/a&socket=/b",
    ] {
        let error = Uri::parse(text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}: {error}");
    }
    for text in ["nbds://host/", "nbds+unix:///?socket=/a", "nbd+vsock://2/", "nbd+ssh://host/"] {
        assert!(Uri::is_one(text.as_bytes()), "{text}");
        assert_eq!(Uri::parse(text).expect_err(text).kind(), ErrorKind::Unsupported);
    }
    for text in ["./nbd://host", "nbdx://host", "nbd:host", "nbd+://", "nbd"] {
        assert!(!Uri::is_one(text.as_bytes()), "{text}");
    }
}

#[test]
fn what_is_written_reads_as_the_same() {
    for (text, written) in [
        ("nbd://", "nbd://localhost:10809/"),
        ("nbd://host:1/a%2Fb%20%ff", "nbd://host:1/a%2Fb%20%FF"),
        ("nbd://a%2fb", "nbd://a%2Fb:10809/"),
        ("nbd://[::1]:2/x", "nbd://[::1]:2/x"),
        ("nbd+unix:///?socket=/run/a%20b%3f%26.sock", "nbd+unix:///?socket=/run/a%20b%3F%26.sock"),
        ("nbd+unix:///e%3f%23?socket=x", "nbd+unix:///e%3F%23?socket=x"),
    ] {
        let uri = Uri::parse(text).expect(text);
        assert_eq!(uri.to_string(), written);
        assert_eq!(Uri::parse(written).expect(written), uri);
    }
}
