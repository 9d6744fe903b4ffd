use std::time::Duration;

use super::super::Config;

const HEAD: &str = "node = \"n\"\nsite = \"bj\"\ndata_dir = \"d\"\n[store]\nengine = \"embedded\"\n[dns]\n";

fn read(dns: &str) -> Result<dns::gate::Config, String> {
    let text = format!("{HEAD}{dns}");
    let read = Config::parse("node.toml", &text);
    let said = |all: Vec<store::model::InputError>| all.iter().map(|it| format!("{it}\n")).collect();
    read.map(|config| config.dns.unwrap().gate).map_err(said)
}

#[test]
fn rates_are_limited_unless_that_is_turned_off() {
    assert_eq!(read("").unwrap(), dns::gate::Config::default());
    assert_eq!(read("[dns.rate_limit]\nenabled = false\n").unwrap().rate_limit, None);
    let limits = read(
        "[dns.rate_limit]\nresponses_per_second = 5\nwindow = \"3s\"\nslip = 0\nexempt = [\"10.0.0.0/8\"]\n",
    );
    let limits = limits.unwrap().rate_limit.unwrap();
    assert_eq!((limits.responses_per_second, limits.errors_per_second, limits.slip), (5, 200, 0));
    assert_eq!((limits.window, limits.exempt.len()), (Duration::from_secs(3), 1));
}

#[test]
fn zones_are_closed_by_name() {
    let rules = read("[dns.allow_query]\n\"Example.org.\" = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n");
    let rules = rules.unwrap().allow_query;
    assert_eq!(rules["example.org"].len(), 2);
}

#[test]
fn every_error_is_reported() {
    let said = read(
        "cookie_secret_file = \"/nowhere\"\n[dns.rate_limit]\nslip = 11\nwindow = \"2h\"\nspeed = 1\n\
         [dns.allow_query]\nexample.org = [\"10.0.0.0/8\"]\n\"a.b\" = []\n\"c.d\" = [\"10.0.0.1/8\"]\n",
    );
    let said = said.unwrap_err();
    for (line, needle) in [
        (7, "/nowhere"),
        (9, "slip"),
        (10, "window"),
        (11, "speed"),
        (13, "name in quotes"),
        (14, "no client could ask"),
        (15, "host bits"),
    ] {
        let found =
            said.lines().any(|it| it.starts_with(&format!("node.toml:{line}:")) && it.contains(needle));
        assert!(found, "line {line}, {needle} in\n{said}");
    }
}

#[test]
fn cookie_secrets_come_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cookie");
    let config = format!("cookie_secret_file = {file:?}\n");
    let secret = "e5e973e5a6b2a43f48e7dc849e37bfcf";
    std::fs::write(&file, format!("{secret}\n")).unwrap();
    assert_eq!(read(&config).unwrap().cookies, Some(secret.parse().unwrap()));
    std::fs::write(&file, "secret\n").unwrap();
    let said = read(&config).unwrap_err();
    assert!(said.contains("line 1 is no secret") && said.contains("32 hexadecimal digits"), "{said}");
}
