use std::time::Duration;

use super::*;

const ALL_IN_ONE: &str = include_str!("../../deploy/config.sample.toml");

fn errors_of(text: &str) -> String {
    let errors = Config::parse("node.toml", text).unwrap_err();
    errors.iter().map(|it| format!("{it}\n")).collect()
}

#[test]
fn the_sample_is_a_node_with_every_role() {
    let config = Config::parse("sample", ALL_IN_ONE).unwrap();
    assert_eq!((config.node.as_str(), config.site.as_str()), ("bj-1", "bj"));
    assert_eq!(config.roles().len(), 4);
    let Some(Store::Embedded(embedded)) = config.store else { panic!("embedded") };
    assert_eq!(embedded.http, Some("127.0.0.1:8500".parse().unwrap()));
    assert_eq!(config.dns.unwrap().workers, 2);
    assert_eq!(config.proxy.unwrap().lameduck, Duration::from_secs(5));
    assert_eq!(config.prober.unwrap().report_to, ["http://127.0.0.1:8580"]);
    assert_eq!(config.telemetry.otlp.as_deref(), Some("http://127.0.0.1:4317"));
}

#[test]
fn every_error_is_reported_with_its_line() {
    let said = errors_of(
        "node = \"n\"\nsite = \"Bad Name\"\ncolour = 1\n\n[store]\nengine = \"embeded\"\n\n[dns]\nlisten = [\"127.0.0.1\"]\nworkers = 0\n\n[proxy]\nlameduck = \"5\"\n",
    );
    for (line, needle) in [
        (1, "data_dir"),
        (2, "site"),
        (3, "colour"),
        (6, "embeded"),
        (9, "listen[0]"),
        (10, "workers"),
        (12, "proxy.cluster"),
        (13, "lameduck"),
    ] {
        let found =
            said.lines().any(|it| it.starts_with(&format!("node.toml:{line}:")) && it.contains(needle));
        assert!(found, "line {line}, {needle} in\n{said}");
    }
}

#[test]
fn a_text_of_an_answer_that_cannot_be_used_is_an_error_of_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (list, page) = (file("list.json", "[\"{{reason}}\"]"), file("page.html", "<p>\n{{cause}}"));
    let large = file("large.html", &"x".repeat(65_537));
    let node = "node = \"n\"\nsite = \"s\"\ndata_dir = \"/d\"\n[store]\nengine = \"embedded\"\n[proxy]\ncluster = \"c\"\n\
                [proxy.answers]\n";
    let said = errors_of(&format!("{node}problem_file = \"{list}\"\npage_file = \"{page}\"\n"));
    for part in [
        "node.toml:9: proxy.answers.problem_file: ",
        "list.json: with its placeholders filled in it is not a JSON object",
        "node.toml:10: proxy.answers.page_file: ",
        "page.html: line 2: {{cause}} is not known",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = errors_of(&format!("{node}problem_file = \"/nowhere.json\"\npage_file = \"{large}\"\n"));
    assert!(
        said.contains("/nowhere.json: No such file") && said.contains("larger than 65536 octets"),
        "{said}"
    );
    let config =
        Config::parse("node.toml", &format!("{node}page_file = \"{}\"\n", file("p.html", "{{title}}")));
    assert!(config.unwrap().proxy.unwrap().answers.page.is_some());
}

#[test]
fn a_file_that_is_no_geoip_database_is_an_error() {
    let node = "node = \"n\"\nsite = \"s\"\ndata_dir = \"/d\"\n[store]\nengine = \"embedded\"\n[dns]\n";
    let said = errors_of(&format!("{node}geoip = \"Cargo.toml\"\n"));
    assert!(
        said.contains("node.toml:7: dns.geoip: Cargo.toml: not a database in the MaxMind format"),
        "{said}"
    );
    let said = errors_of(&format!("{node}geoip = \"/nowhere.mmdb\"\n"));
    assert!(said.contains("/nowhere.mmdb: No such file"), "{said}");
}

#[test]
fn external_programs_are_absolute_paths_by_name() {
    let node = "node = \"n\"\nsite = \"s\"\ndata_dir = \"/d\"\n[prober]\nvantage = \"v\"\nreport_to = [\"http://127.0.0.1:1\"]\n";
    let said = errors_of(&format!(
        "{node}external = {{ ok = \"/bin/true\", near = \"bin/x\", \"Bad Name\" = \"/x\" }}\n"
    ));
    assert!(said.contains("node.toml:7") && said.contains("external.near"), "{said}");
    assert!(said.contains("the absolute path of a program"), "{said}");
    assert!(said.contains("\"Bad Name\" is not a name for a program"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn every_error_about_other_sites_is_reported_with_its_line() {
    let node = "node = \"n\"\nsite = \"s\"\ndata_dir = \"/d\"\n[store]\nengine = \"embedded\"\n[control]\n";
    let said = errors_of(&format!(
        "{node}join = [\"http://10.1.0.1:8580\", \"https://10.1.0.1:8580/x\"]\npeer_ca_file = \"Cargo.toml\"\n\
         join_ca_file = \"/nowhere.pem\"\n"
    ));
    for needle in [
        "node.toml:7: control.join[0]: \"http://10.1.0.1:8580\" is not a URL that begins with https://",
        "node.toml:7: control.join[1]: \"https://10.1.0.1:8580/x\" is not a URL such as",
        "node.toml:8: control.peer_ca_file: is for a listener with TLS",
        "node.toml:8: control.peer_ca_file: there is no certificate in it",
        "node.toml:9: control.join_ca_file: cannot read /nowhere.pem",
        "control.join_token_file: is missing",
    ] {
        assert!(said.contains(needle), "{needle} in\n{said}");
    }
    assert_eq!(said.lines().count(), 6, "{said}");
    let said = errors_of(&format!("{node}join = []\njoin_token_file = \"/t\"\n"));
    assert!(said.contains("a list of 1 to 8 URLs"), "{said}");
    let said = errors_of(&format!("{node}join_token_file = \"/nowhere/t\"\n"));
    assert!(said.contains("control.join_token_file: is for a site that joins others"), "{said}");
    let joins = format!("{node}join = [\"http://127.0.0.1:1\"]\njoin_token_file = \"/nowhere/t\"\n");
    let control = Config::parse("node.toml", &joins).unwrap().control.unwrap();
    let join = control.join.unwrap();
    assert_eq!((join.urls[0].as_str(), join.ca_file), ("http://127.0.0.1:1", None));
    assert_eq!(join.token_file, PathBuf::from("/nowhere/t"), "it may come later");
}

#[test]
fn a_syntax_error_has_its_line() {
    let said = errors_of("node = \"n\"\nsite = \n");
    assert!(said.contains("node.toml:2"), "{said}");
}

#[test]
fn roles_need_an_engine_and_a_node_needs_a_role() {
    let said = errors_of("node = \"n\"\nsite = \"bj\"\ndata_dir = \"d\"\n[dns]\n");
    assert!(said.contains("[store]"), "{said}");
    let said = errors_of("node = \"n\"\nsite = \"bj\"\ndata_dir = \"d\"\n");
    assert!(said.contains("has no section of a role"), "{said}");
    let zones = "node = \"n\"\nsite = \"bj\"\ndata_dir = \"d\"\n[dns]\nzones_dir = \"/\"\n";
    let config = Config::parse("node.toml", zones).unwrap();
    assert_eq!(config.dns.unwrap().zones_dir, Some("/".into()));
    let said = errors_of(&zones.replace('/', "/no/where"));
    assert!(said.contains("node.toml:5: dns.zones_dir: /no/where is not a folder"), "{said}");
}

#[test]
fn encrypted_dns_needs_a_certificate_but_not_a_readable_one() {
    let head = "node = \"n\"\nsite = \"bj\"\ndata_dir = \"d\"\n[store]\nengine = \"embedded\"\n[dns]\n";
    let said = errors_of(&format!("{head}tls_listen = [\"[::1]:853\"]\nhttps_listen = [\"[::1]:443\"]\n"));
    for named in ["node.toml:7: ", "dns.tls_listen", "node.toml:8: ", "dns.https_listen", "[dns.tls]"] {
        assert!(said.contains(named), "{named} in\n{said}");
    }
    let said = errors_of(&format!("{head}quic_listen = [\"[::1]:853\"]\nh3_listen = [\"[::1]:443\"]\n"));
    for named in ["node.toml:7: ", "dns.quic_listen", "node.toml:8: ", "dns.h3_listen", "[dns.tls]"] {
        assert!(said.contains(named), "{named} in\n{said}");
    }
    let said = errors_of(&format!("{head}tls = {{ certificate = \"nowhere.pem\", kay = 1 }}\n"));
    assert!(said.contains("dns.tls.key") && said.contains("kay"), "{said}");
    let text = format!("{head}[dns.tls]\ncertificate = \"nowhere.pem\"\nkey = \"nowhere.key\"\n");
    let config = Config::parse("node.toml", &text).unwrap();
    assert_eq!(config.dns_certificate.unwrap().certificate, PathBuf::from("nowhere.pem"));
}

#[test]
fn the_registrys_names_are_answered_off_loopback_only_if_configured() {
    let config = |dns: &str| {
        let text =
            format!("node = \"n\"\nsite = \"bj\"\ndata_dir = \"d\"\n[store]\nengine = \"embedded\"\n{dns}");
        Config::parse("node.toml", &text)
    };
    let refused = config("dns = \"0.0.0.0:8600\"").unwrap_err();
    assert_eq!(refused.len(), 1);
    assert!(refused[0].to_string().contains("dns_exposed = true"), "{}", refused[0]);
    let text = "dns = \"0.0.0.0:8600\"\ndns_exposed = true\ndns_ttl = \"5s\"\ndns_domain = \"Bei.Example\"";
    let Some(Store::Embedded(it)) = config(text).unwrap().store else { panic!("embedded") };
    assert_eq!((it.dns_domain.as_str(), it.dns_ttl.as_secs()), ("bei.example", 5));
    let Some(Store::Embedded(it)) = config("dns = \"[::1]:8600\"").unwrap().store else { panic!("embedded") };
    assert_eq!((it.dns_domain.as_str(), it.dns_ttl.as_secs()), ("consul", 0));
}

#[test]
fn names_of_services_are_offered_to_internal_clients() {
    let config = |store: &str, dns: &str| {
        let head = "node = \"n\"\nsite = \"bj\"\ndata_dir = \"d\"\n[store]\nengine = ";
        Config::parse("node.toml", &format!("{head}{store}\n[dns]\n{dns}"))
    };
    let offer = |store: &str, dns: &str| config(store, dns).unwrap().dns.unwrap().discovery;
    assert_eq!(offer("\"embedded\"", ""), None);
    let offered = offer("\"embedded\"", "discovery_domain = \"consul\"").unwrap();
    assert_eq!((offered.datacenter.as_str(), offered.clients), ("dc1", dns::registry::Offer::inside()));
    let text =
        "discovery_domain = \"in.example\"\ndiscovery_clients = [\"10.0.0.0/8\"]\ndiscovery_ttl = \"5s\"";
    let offered = offer("\"consul\"\nurl = \"http://127.0.0.1:8500\"", text).unwrap();
    assert_eq!((offered.datacenter.as_str(), offered.clients.len(), offered.ttl.as_secs()), ("", 1, 5));
    let refused =
        config("\"embedded\"", "discovery_ttl = \"5s\"\ndiscovery_clients = [\"10.0.0.1/8\"]").unwrap_err();
    let said: String = refused.iter().map(|it| format!("{it}\n")).collect();
    assert!(
        said.contains("discovery_domain = \"consul\"") && said.contains("discovery_clients[0]"),
        "{said}"
    );
}

#[test]
fn off_loopback_takes_tls_and_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(path("pem"), made.cert.pem()).unwrap();
    std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("token"), "0123456789abcdef\n").unwrap();
    let head = "node = \"n\"\nsite = \"bj\"\ndata_dir = \"d\"\n[store]\nengine = \"embedded\"\n";
    for (section, named) in [
        ("http = \"0.0.0.0:1\"\n", "[store] http 0.0.0.0:1"),
        ("[control]\nlisten = \"[::]:1\"\n", "[control] listen [::]:1"),
    ] {
        let said = errors_of(&format!("{head}{section}"));
        assert!(said.contains(named) && said.contains("tls") && said.contains("token_file"), "{said}");
        let guard = format!(
            "token_file = \"{}\"\ntls = {{ certificate = \"{}\", key = \"{}\" }}\n",
            path("token"),
            path("pem"),
            path("key")
        );
        let config = Config::parse("node.toml", &format!("{head}{section}{guard}")).unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("0123456789abcdef") && !shown.contains("PRIVATE"), "{shown}");
    }
    std::fs::write(path("token"), "short").unwrap();
    let said = errors_of(&format!("{head}token_file = \"{}\"\n", path("token")));
    assert!(said.contains("holds no token"), "{said}");
}

#[test]
fn an_unknown_log_level_is_an_error() {
    let node = "node = \"n\"\nsite = \"s\"\ndata_dir = \"/d\"\n[store]\nengine = \"embedded\"\n[telemetry]\n";
    for (log, needle) in [
        ("inof", "there is no log level \\\"inof\\\"; for a module of that name write inof=debug"),
        ("proxy", "there is no log level"),
        ("", "telemetry.log"),
        ("info,proxy=loud", "telemetry.log"),
    ] {
        let said = errors_of(&format!("{node}log = \"{log}\"\n"));
        let needle = needle.replace("\\\"", "\"");
        assert!(said.contains("node.toml:7") && said.contains(&needle), "{log:?}: {said}");
    }
    for log in ["off", "INFO", "warn,proxy=debug", "info,dns::server=trace", "info,[query{kind=a}]=debug"] {
        let read = Config::parse("node.toml", &format!("{node}log = \"{log}\"\n"));
        assert_eq!(read.unwrap().telemetry.log.directives, log);
    }
}

#[test]
fn a_file_without_authorities_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, "no certificate\n").unwrap();
    let node = "node = \"n\"\nsite = \"s\"\ndata_dir = \"/d\"\n";
    let store = format!(
        "[store]\nengine = \"consul\"\nurl = \"https://127.0.0.1:8501\"\nca_file = \"{}\"\n",
        file.display()
    );
    let said = errors_of(&format!("{node}{store}"));
    assert!(said.contains("node.toml:7: store.ca_file: there is no certificate in it"), "{said}");
    let prober = format!(
        "[prober]\nvantage = \"v\"\nreport_to = [\"http://127.0.0.1:1\"]\nca_file = \"{0}\"\ncheck_ca_file = \"{0}\"\n",
        file.display()
    );
    let said = errors_of(&format!("{node}{prober}"));
    assert!(said.contains("prober.ca_file") && said.contains("prober.check_ca_file"), "{said}");
}

#[test]
fn the_history_is_bounded_by_two_keys() {
    let config = Config::parse("sample", ALL_IN_ONE).unwrap();
    assert_eq!(config.control.unwrap().history, store::commit::history::Limits::default());
    let node = "node = \"n\"\nsite = \"s\"\ndata_dir = \"/d\"\n[store]\nengine = \"embedded\"\n[control]\n";
    let read =
        Config::parse("node.toml", &format!("{node}history_commits = 5\nhistory_bytes = 65536\n")).unwrap();
    let wanted = store::commit::history::Limits { commits: 5, bytes: 65_536 };
    assert_eq!(read.control.unwrap().history, wanted);
    let said = errors_of(&format!("{node}history_commits = 0\nhistory_bytes = 1\n"));
    assert!(said.contains("control.history_commits") && said.contains("control.history_bytes"), "{said}");
}

#[test]
fn a_token_to_send_may_come_later_and_one_to_expect_may_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let head = "node = \"n\"\nsite = \"bj\"\ndata_dir = \"d\"\n";
    let sends = format!(
        "{head}[store]\nengine = \"consul\"\nurl = \"http://127.0.0.1:1\"\ntoken_file = \"{}\"\n\
         [prober]\nvantage = \"gz\"\nreport_to = [\"http://127.0.0.1:2\"]\ntoken_file = \"{}\"\n",
        path("node"),
        path("vantage")
    );
    let config = Config::parse("node.toml", &sends).unwrap();
    let named: Vec<_> = config.token_files.iter().map(|it| it.what).collect();
    assert_eq!(named, ["[store] token_file", "[prober] token_file"]);
    // The token that is read later is sent from then on.
    std::fs::write(path("vantage"), "0123456789abcdef\n").unwrap();
    assert_eq!(config.token_files[1].reread(), Ok(true));
    let sent = config.prober.unwrap().token.unwrap().load();
    assert_eq!(sent.unwrap().expose(), "0123456789abcdef");
    let expects = format!(
        "{head}[store]\nengine = \"embedded\"\n[control]\nlisten = \"127.0.0.1:1\"\ntoken_file = \"{}\"\n",
        path("missing")
    );
    assert!(errors_of(&expects).contains("cannot read"));
    // An empty file is an error for both.
    std::fs::write(path("node"), "").unwrap();
    assert!(errors_of(&sends).contains("holds no token"));
}

#[test]
fn the_old_name_of_a_certificate_is_answered_with_the_new_one() {
    let old = "tls = { cert = \"/c.pem\", key = \"Cargo.toml\" }\n";
    let said = errors_of(&format!(
        "node = \"n\"\nsite = \"bj\"\ndata_dir = \"d\"\n[store]\nengine = \"embedded\"\n{old}[control]\n{old}\
         [telemetry]\nlisten = \"127.0.0.1:1\"\n{old}[dns]\ntls_listen = [\"[::1]:853\"]\n{old}"
    ));
    let sections = [(6, "store"), (8, "control"), (11, "telemetry"), (14, "dns")];
    let expected = sections.map(|(line, section)| {
        format!("node.toml:{line}: {section}.tls.cert: this key is now called `certificate`")
    });
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    let unknown = errors_of(&format!("[control]\n{}", old.replace("cert", "cart")));
    assert!(unknown.contains("expected one of the keys certificate or key"), "{unknown}");
}

#[test]
fn a_key_of_another_certificate_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let made = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (one, other) = (made(), made());
    std::fs::write(path("one.pem"), one.cert.pem()).unwrap();
    std::fs::write(path("one.key"), one.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("other.key"), other.signing_key.serialize_pem()).unwrap();
    let text = |key: &str| {
        let head =
            "node = \"n\"\nsite = \"bj\"\ndata_dir = \"d\"\n[store]\nengine = \"embedded\"\n[control]\n";
        format!("{head}tls = {{ certificate = {:?}, key = {:?} }}\n", path("one.pem"), path(key))
    };
    let config = Config::parse("node.toml", &text("one.key")).unwrap();
    assert_eq!(config.control.unwrap().guard.tls.unwrap().key, PathBuf::from(path("one.key")));
    let said = errors_of(&text("other.key"));
    assert!(said.starts_with("node.toml:7: control.tls: ") && said.contains("other.key"), "{said}");
}

#[test]
fn metrics_may_be_read_from_elsewhere_and_the_log_has_a_format_and_a_file() {
    let config = |telemetry: &str| {
        let head =
            "node = \"n\"\nsite = \"bj\"\ndata_dir = \"d\"\n[store]\nengine = \"embedded\"\n[telemetry]\n";
        Config::parse("node.toml", &format!("{head}{telemetry}"))
    };
    let read = |telemetry: &str| config(telemetry).unwrap().telemetry;
    let said = |telemetry: &str| {
        config(telemetry).unwrap_err().iter().map(|it| format!("{it}\n")).collect::<String>()
    };
    let open = read("listen = \"192.0.2.1:9464\"\n");
    assert_eq!(open.listen, Some("192.0.2.1:9464".parse().unwrap()));
    assert!(open.guard.tls.is_none() && open.guard.token.is_none());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("waypost.log");
    assert_eq!(
        read(&format!("log_format = \"json\"\nlog_file = {file:?}\n")).log,
        log::Settings { directives: "info".to_owned(), format: log::Format::Json, file: Some(file.clone()) }
    );
    assert!(!file.exists(), "a check writes nothing");
    let warned = config("log_file = \"/no/where/waypost.log\"\n").unwrap().warnings;
    let said_of_it = "node.toml:7: telemetry.log_file: cannot write to /no/where/waypost.log: No such file";
    assert!(warned[0].to_string().starts_with(said_of_it), "{warned:?}");
    let token = dir.path().join("token");
    std::fs::write(&token, "0123456789abcdef\n").unwrap();
    let guarded = config(&format!("listen = \"[::]:9464\"\ntoken_file = {token:?}\n")).unwrap();
    assert!(guarded.telemetry.guard.token.is_some());
    assert_eq!(guarded.token_files.len(), 1, "it is read again like every other");
    for (wrong, needle) in [
        (format!("token_file = {token:?}\n"), "is for a listener that does not exist"),
        ("log_format = \"xml\"\n".to_owned(), "text or json"),
    ] {
        assert!(said(&wrong).contains(needle), "{wrong}: {}", said(&wrong));
    }
}

#[test]
fn the_engine_is_found_without_opening_other_files() {
    // While a service is stopped, systemd gives it no credentials.
    let text = |store: &str| {
        format!(
            "node = \"n\"\nsite = \"bj\"\ndata_dir = \"d\"\n[store]\n{store}\n\
             [control]\ntoken_file = \"/run/credentials/none/first.token\"\n\
             tls = {{ certificate = \"/run/credentials/none/admin.pem\", key = \"/run/credentials/none/admin.key\" }}\n\
             [dns]\nzones_dir = \"/no/where\"\n"
        )
    };
    let guarded = "engine = \"embedded\"\nhttp = \"192.0.2.1:8500\"\ndatacenter = \"east\"\n\
                   token_file = \"/run/credentials/none/first.token\"\n\
                   tls = { certificate = \"/run/credentials/none/a.pem\", key = \"/run/credentials/none/a.key\" }";
    assert!(Config::parse("node.toml", &text(guarded)).is_err());
    let engine = NodeEngine::parse("node.toml", &text(guarded)).unwrap();
    assert_eq!((engine.node.as_str(), engine.data_dir.as_path()), ("n", Path::new("d")));
    assert_eq!(engine.missing_token(), None);
    let Store::Embedded(it) = engine.store else { panic!("{:?}", engine.store) };
    assert_eq!((it.datacenter.as_str(), it.http), ("east", Some("192.0.2.1:8500".parse().unwrap())));
    // The token for Consul is needed to reach the engine.
    let consul = "engine = \"consul\"\nurl = \"http://127.0.0.1:8500\"\n\
                  token_file = \"/run/credentials/none/node.token\"";
    let engine = NodeEngine::parse("node.toml", &text(consul)).unwrap();
    assert_eq!(engine.missing_token(), Some(Path::new("/run/credentials/none/node.token")));
    for (wrong, needle) in [
        ("node = \"n\"\ndata_dir = \"d\"\n[dns]\n", "store is missing"),
        ("data_dir = \"d\"\n[store]\nengine = \"none\"\n", "node is missing"),
    ] {
        let said = NodeEngine::parse("node.toml", wrong).unwrap_err();
        let said = said.iter().map(|it| format!("{it}\n")).collect::<String>();
        assert!(said.contains("node.toml:") && said.replace(':', "").contains(needle), "{said}");
    }
}
