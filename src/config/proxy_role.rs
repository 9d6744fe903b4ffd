//! The section `[proxy]`.
//!
//! Listeners that need nothing special are in the two lists `listen` and `tls_listen`. `[[proxy.listeners]]` has those with
//! settings of their own.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use proxy::{
    LogTarget, LoggedQuery,
    tls::{Identity, Version},
};
use store::model::{
    read::{Fields, Reader},
    tree::Value,
};

use super::{
    settings::{AnswerFiles, Proxy},
    values::{MAX, address, authorities, cpus, file, name, path, span},
};
use crate::{
    certificate::gateway::{AskedClients, Entry, GatewayCertificates},
    small_file,
};

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
const A_CERTIFICATE: &str = "[[proxy.certificates]] with `certificate = \"FILE\"` and `key = \"FILE\"`";
/// Certificates of one gateway.
const MAX_CERTIFICATES: usize = 10_000;
const MAX_HOSTS: usize = 100;

pub(super) fn proxy_section(fields: &Fields<'_>) -> Option<Proxy> {
    let cluster = fields.required("cluster", "the name of the cluster it serves", name);
    let trusted = fields.optional("trusted_networks", networks).unwrap_or_default();
    let listen = fields.or("listen", vec![LISTEN], |it| it.list(|it| address(&it)));
    let tls_listen = fields.optional("tls_listen", |it| it.list(|it| address(&it))).unwrap_or_default();
    let own = fields.optional("listeners", |it| it.list(|it| listener(&it, &trusted))).unwrap_or_default();
    let lists = ["listen", "tls_listen", "listeners"];
    if let Some(at) = fields.get("listen")
        && lists.iter().all(|key| fields.get(key).is_none_or(|it| items(&it) == 0))
    {
        at.error(
            "is empty, and there is no other listener",
            "an address with its port, such as 127.0.0.1:8080",
        );
    }
    let certificates = certificates(fields);
    needs_certificates(fields, &own, certificates.is_some());
    let limits =
        fields.get("limits").and_then(|at| at.fields()).map(|fields| super::proxy_limits::limits(&fields));
    Some(Proxy {
        cluster: cluster?,
        listen,
        tls_listen,
        listeners: own,
        trusted_networks: trusted,
        certificates,
        workers: fields.or("workers", cpus(), |it| it.int(1..=256)),
        lameduck: fields.or("lameduck", Duration::from_secs(5), span),
        shutdown_deadline: fields.or("shutdown_deadline", Duration::from_secs(30), span),
        limits: limits.unwrap_or_default(),
        access_log: fields.get("access_log").and_then(|at| access_log(&at.fields()?)),
        answers: fields.get("answers").and_then(|at| at.fields()).map(|it| answers(&it)).unwrap_or_default(),
    })
}

/// The files that replace the texts of the gateway's own answers. They are read here, so that one that cannot be used is an
/// error of its line.
fn answers(fields: &Fields<'_>) -> AnswerFiles {
    AnswerFiles {
        problem: fields.optional("problem_file", |it| {
            template(&it, |file| proxy::Answers::default().replace(Some(file), None))
        }),
        page: fields.optional("page_file", |it| {
            template(&it, |file| proxy::Answers::default().replace(None, Some(file)))
        }),
    }
}

fn template(
    at: &Reader<'_>,
    check: impl Fn(&[u8]) -> Result<(), (&'static str, proxy::TemplateError)>,
) -> Option<PathBuf> {
    let path = path(at)?;
    match small_file::read(&path, proxy::Answers::MAX_FILE) {
        Err(error) => at.error(error.to_string(), "a file of at most 64 KiB that this user may read"),
        Ok(file) => {
            if let Err((_, error)) = check(&file) {
                at.error(
                    format!("{}: {error}", path.display()),
                    "a file as docs/configuration.md describes it",
                );
            }
        }
    }
    Some(path)
}

/// The access log.
fn access_log(fields: &Fields<'_>) -> Option<proxy::AccessLog> {
    let expected = "a file, such as /var/log/waypost/access.log, or \"stdout\"";
    let target = fields.required("path", expected, |it| {
        let text = it.text(4_096)?;
        Some(if text == "stdout" { LogTarget::Stdout } else { LogTarget::File(path(&it)?) })
    });
    let sample = fields.or("sample_percent", 100, |it| it.int(0..=100_u32));
    let query = fields.or("query", LoggedQuery::default(), |it| match it.text(16)? {
        "whole" => Some(LoggedQuery::Whole),
        "names" => Some(LoggedQuery::Names),
        "off" => Some(LoggedQuery::Off),
        _ => {
            it.wrong("whole, names or off");
            None
        }
    });
    let least = proxy::AccessLog::MIN_BUFFER;
    let usual = proxy::AccessLog::to(LogTarget::Stdout).buffer;
    let buffer = fields.or("buffer", usual, |it| it.int(least..=1_073_741_824));
    let sample = sample * (proxy::AccessLog::ALL / 100);
    Some(proxy::AccessLog { target: target?, sample, query, buffer })
}

/// The items that are written in a list, whether they can be read or not.
fn items(at: &Reader<'_>) -> usize {
    if let Value::List(items) = &at.node().value { items.len() } else { 1 }
}

/// A listener with settings of its own.
fn listener(at: &Reader<'_>, trusted: &proxy::Networks) -> Option<proxy::Listener> {
    let fields = at.fields()?;
    let address = fields.required("address", "where it listens, such as 192.0.2.1:80", |it| address(&it));
    let tls = fields.or("tls", false, |it| it.boolean());
    let proxy_protocol = fields.or("proxy_protocol", false, |it| it.boolean());
    let redirect_to_https = fields.optional("redirect_to_https", |it| it.int(1..=65_535));
    let trusted_networks = fields.optional("trusted_networks", networks).unwrap_or_else(|| trusted.clone());
    if let Some(there) = fields.get("proxy_protocol")
        && proxy_protocol
        && trusted_networks.is_empty()
    {
        there.error(
            "no network is trusted, so every connection would be refused",
            "`trusted_networks = [\"NETWORK\"]` with the proxies before this listener",
        );
    }
    if let Some(there) = fields.get("redirect_to_https")
        && tls
    {
        there.error("clients of this listener use https already", "a listener without `tls = true`");
    }
    Some(proxy::Listener { address: address?, tls, proxy_protocol, redirect_to_https, trusted_networks })
}

#[expect(clippy::needless_pass_by_value, reason = "the shape readers are passed in")]
fn networks(at: Reader<'_>) -> Option<proxy::Networks> {
    let all = at.list(|it| it.net())?;
    let most = proxy::Networks::MAX;
    if all.len() > most {
        at.error(format!("{} networks", all.len()), format!("at most {most}"));
    }
    Some(all.into_iter().collect())
}

/// Listeners that speak TLS need a certificate, and certificates need such a listener.
fn needs_certificates(fields: &Fields<'_>, own: &[proxy::Listener], there: bool) {
    let list = fields.get("tls_listen").filter(|it| items(it) > 0);
    let of_own = own.iter().any(|it| it.tls).then(|| fields.get("listeners")).flatten();
    let speaking = [list, of_own];
    if !there && fields.get("certificates").is_none() {
        for at in speaking.into_iter().flatten() {
            at.error("needs a certificate, and there is none", A_CERTIFICATE);
        }
    } else if speaking.iter().all(Option::is_none)
        && let Some(at) = fields.get("certificates")
    {
        at.error("there is no listener that speaks TLS", "`tls_listen = [\"ADDRESS\"]` beside it");
    }
}

/// The certificates and `[proxy.tls]`. Their files are read here, so that one that cannot be used is an error of its line.
fn certificates(fields: &Fields<'_>) -> Option<GatewayCertificates> {
    let tls = fields.get("tls").and_then(|at| tls(&at));
    let Some(at) = fields.get("certificates") else {
        if let Some(there) = fields.get("tls") {
            there.error("has no effect without a certificate", A_CERTIFICATE);
        }
        return None;
    };
    let mut first = true;
    let entries = at.list(|it| entry(&it, std::mem::take(&mut first)))?;
    match items(&at) {
        0 => at.error("is empty", A_CERTIFICATE),
        1..=MAX_CERTIFICATES => {}
        more => at.error(format!("{more} certificates"), format!("at most {MAX_CERTIFICATES}")),
    }
    Some(GatewayCertificates { entries, ..tls.unwrap_or_default() })
}

fn entry(at: &Reader<'_>, is_first: bool) -> Option<Entry> {
    let fields = at.fields()?;
    let read = |it: Reader<'_>| Some((path(&it)?, file(&it)?));
    let chain = fields.required("certificate", "the file of the certificate chain, in PEM", read);
    let key = fields.required("key", "the file of its key, in PEM", read);
    let hosts = fields.optional("hosts", |it| it.distinct(host)).unwrap_or_default();
    if hosts.len() > MAX_HOSTS {
        at.error(format!("{} hosts", hosts.len()), format!("at most {MAX_HOSTS}"));
    }
    let ((certificate, chain), (key, secret)) = (chain?, key?);
    let entry = Entry { certificate, key, hosts };
    match entry.identity(&chain, &secret) {
        Err(error) => at.error(error, "a certificate for these hosts and the key that belongs to it, in PEM"),
        Ok(identity) => must_be_found(at, &identity, is_first),
    }
    Some(entry)
}

/// Only the first is shown to clients that ask for no name.
fn must_be_found(at: &Reader<'_>, identity: &Identity, is_first: bool) {
    if !is_first && !identity.has_hosts() {
        at.error(
            "the certificate has no host name, and only the first certificate is shown without one",
            "a certificate with a subject alternative name (DNS)",
        );
    }
}

/// `a.example.com` or `*.example.com`, in lower case.
#[expect(clippy::needless_pass_by_value, reason = "the shape readers are passed in")]
fn host(at: Reader<'_>) -> Option<String> {
    let text = at.text(MAX)?;
    let labels = text.strip_prefix("*.").unwrap_or(text);
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_'))
    };
    if labels.len() > 253 || !labels.split('.').all(is_label) {
        at.wrong("a host such as www.example.com or *.example.com");
        return None;
    }
    Some(text.to_ascii_lowercase())
}

/// What clients are offered, without the certificates.
fn tls(at: &Reader<'_>) -> Option<GatewayCertificates> {
    #[derive(Clone, Copy, PartialEq)]
    enum Ask {
        None,
        Optional,
        Required,
    }
    let fields = at.fields()?;
    let versions = [("1.2", Version::Tls12), ("1.3", Version::Tls13)];
    let min_version = fields.or("min_version", Version::default(), |it| it.word(&versions));
    let words = [("none", Ask::None), ("optional", Ask::Optional), ("required", Ask::Required)];
    let ask = fields.or("client_certificates", Ask::None, |it| it.word(&words));
    let ca = fields.optional("client_ca_file", |it| {
        authorities(&it)?;
        path(&it)
    });
    let kept_sessions = fields.or("kept_sessions", 1024, |it| it.int(0..=1_000_000));
    let tickets = fields.or("tickets", true, |it| it.boolean());
    if let Some(there) = fields.get("client_certificates")
        && ask != Ask::None
        && fields.get("client_ca_file").is_none()
    {
        there.error("needs the authorities of the certificates", "`client_ca_file = \"FILE\"` beside it");
    }
    if let Some(there) = fields.get("client_ca_file")
        && ask == Ask::None
    {
        there.error(
            "has no effect, because clients are not asked for certificates",
            "`client_certificates = \"optional\"` or \"required\" beside it",
        );
    }
    let asked = ca.map(|file: PathBuf| AskedClients { file, required: ask == Ask::Required });
    Some(GatewayCertificates { entries: Vec::new(), min_version, asked, tickets, kept_sessions })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;

    fn read(folder: &Path, proxy: &str) -> Result<Config, String> {
        let proxy = proxy.replace("DIR", &folder.display().to_string());
        let text = format!(
            "node = \"n\"\nsite = \"s\"\ndata_dir = \"/d\"\n[store]\nengine = \"embedded\"\n\
             [proxy]\ncluster = \"c\"\n{proxy}"
        );
        Config::parse("node.toml", &text)
            .map_err(|errors| errors.iter().map(|it| format!("{it}\n")).collect())
    }

    fn certificate(folder: &Path, name: &str, hosts: &[&str]) {
        let hosts: Vec<String> = hosts.iter().map(|it| (*it).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(hosts).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), made.cert.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    }

    const TLS: &str = "tls_listen = [\"127.0.0.1:8443\"]\n";
    const A: &str = "[[proxy.certificates]]\ncertificate = \"DIR/a.pem\"\nkey = \"DIR/a.key\"\n";

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        certificate(folder.path(), "a", &["a.example"]);
        certificate(folder.path(), "nameless", &["192.0.2.1"]);
        let nameless = A.replace("DIR/a.", "DIR/nameless.");
        for (proxy, line, said) in [
            ("listen = []\n".to_owned(), 8, "proxy.listen: is empty, and there is no other listener"),
            (TLS.to_owned(), 8, "proxy.tls_listen: needs a certificate, and there is none"),
            (A.to_owned(), 8, "proxy.certificates: there is no listener that speaks TLS"),
            (
                "[[proxy.listeners]]\naddress = \"127.0.0.1:1\"\ntls = true\n".to_owned(),
                8,
                "proxy.listeners: needs a certificate, and there is none",
            ),
            (
                format!("{TLS}[[proxy.certificates]]\ncertificate = \"DIR/a.pem\"\n"),
                9,
                "proxy.certificates[0].key: is missing",
            ),
            (
                format!("{TLS}{A}hosts = [\"b.example\"]\n"),
                9,
                "the certificate is not for b.example, but for a.example",
            ),
            (
                format!("{TLS}{}", A.replace("a.key", "nameless.key")),
                9,
                "the key is that of another certificate",
            ),
            (
                format!("{TLS}{}", A.replace("a.key", "none.key")),
                11,
                "proxy.certificates[0].key: cannot read",
            ),
            (format!("{TLS}{A}hosts = [\"*.*.example\"]\n"), 12, "proxy.certificates[0].hosts[0]: "),
            (format!("{TLS}{A}{nameless}"), 12, "proxy.certificates[1]: the certificate has no host name"),
            (format!("{TLS}{A}[proxy.tls]\nmin_version = \"1.1\"\n"), 13, "proxy.tls.min_version: "),
            (
                format!("{TLS}{A}[proxy.tls]\nclient_certificates = \"required\"\n"),
                13,
                "proxy.tls.client_certificates: needs the authorities",
            ),
            (
                format!("{TLS}{A}[proxy.tls]\nclient_ca_file = \"DIR/a.pem\"\n"),
                13,
                "proxy.tls.client_ca_file: has no effect",
            ),
            (
                format!(
                    "{TLS}{A}[proxy.tls]\nclient_certificates = \"required\"\nclient_ca_file = \"DIR/a.key\"\n"
                ),
                14,
                "proxy.tls.client_ca_file: there is no certificate in it",
            ),
            ("[proxy.tls]\ntickets = true\n".to_owned(), 8, "proxy.tls: has no effect without a certificate"),
            (
                "[[proxy.listeners]]\naddress = \"127.0.0.1:1\"\nproxy_protocol = true\n".to_owned(),
                10,
                "proxy.listeners[0].proxy_protocol: no network is trusted",
            ),
            (
                format!(
                    "{A}[[proxy.listeners]]\naddress = \"127.0.0.1:1\"\ntls = true\nredirect_to_https = 443\n"
                ),
                14,
                "proxy.listeners[0].redirect_to_https: clients of this listener use https already",
            ),
            ("trusted_networks = [\"10.0.0.1/8\"]\n".to_owned(), 8, "proxy.trusted_networks[0]: "),
            (
                "listen = [\"127.0.0.1:1\"]\n[[proxy.listeners]]\naddress = \"127.0.0.1:1\"\n".to_owned(),
                10,
                "proxy.listeners[0].address: 127.0.0.1:1 is already the address of proxy.listen[0]",
            ),
        ] {
            let errors = read(folder.path(), &proxy).expect_err(&proxy);
            assert!(
                errors.starts_with(&format!("node.toml:{line}: ")) && errors.contains(said),
                "{proxy}\n{errors}"
            );
            assert_eq!(errors.lines().count(), 1, "{proxy}\n{errors}");
        }
    }

    #[test]
    fn listeners_are_those_of_all_three_lists() {
        let folder = tempfile::tempdir().unwrap();
        certificate(folder.path(), "a", &["a.example"]);
        let text = format!(
            "trusted_networks = [\"10.0.0.0/8\"]\n{TLS}{A}[[proxy.listeners]]\naddress = \"127.0.0.1:1\"\n\
             proxy_protocol = true\n[[proxy.listeners]]\naddress = \"127.0.0.1:2\"\nredirect_to_https = 443\n\
             trusted_networks = []\n"
        );
        let proxy = read(folder.path(), &text).unwrap().proxy.unwrap();
        let all: Vec<_> = proxy.all_listeners().collect();
        let ports: Vec<u16> = all.iter().map(|it| it.address.port()).collect();
        assert_eq!(ports, [8080, 8443, 1, 2]);
        let ten = "10.1.1.1".parse().unwrap();
        let said: Vec<_> =
            all.iter().map(|it| (it.tls, it.proxy_protocol, it.trusted_networks.contain(ten))).collect();
        assert_eq!(
            said,
            [(false, false, true), (true, false, true), (false, true, true), (false, false, false)]
        );
        assert_eq!(all[3].redirect_to_https, Some(443));
        assert_eq!(proxy.certificates.unwrap().entries.len(), 1);
        // As before there were others.
        let plain = read(folder.path(), "listen = [\"127.0.0.1:8080\"]\n").unwrap().proxy.unwrap();
        assert_eq!(plain.all_listeners().count(), 1);
        let only_tls = read(folder.path(), &format!("listen = []\n{TLS}{A}")).unwrap().proxy.unwrap();
        assert!(only_tls.all_listeners().all(|it| it.tls));
    }
}
