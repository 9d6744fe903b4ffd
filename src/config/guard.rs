//! How listeners are guarded (certificate, key, token), and the tokens that a node sends.

use std::{net::SocketAddr, path::PathBuf};

use store::{
    model::{
        read::{Fields, Reader},
        tree::Value,
    },
    secret::{Credential, Secret},
};

use super::{
    settings::{Guard, Store},
    values::{file, path},
};
use crate::{
    certificate::{CertificateFiles, server_config},
    reread::{Content, FileInUse},
    small_file,
    token_file::{self, TokenFile},
};

/// The certificate and the key of a section `tls`, each read by `read`.
pub(super) fn certificate<T>(tls: &Reader<'_>, read: impl Fn(&Reader<'_>) -> Option<T>) -> Option<[T; 2]> {
    let tls = tls.fields()?;
    tls.renamed("cert", "certificate");
    let certificate =
        tls.required("certificate", "the file of the certificate chain, in PEM", |it| read(&it));
    let key = tls.required("key", "the file of its key, in PEM", |it| read(&it));
    Some([certificate?, key?])
}

/// The certificate, the key and the first token of a listener.
pub(super) fn guard(fields: &Fields<'_>) -> Guard {
    let tls = fields.get("tls").and_then(|at| {
        let [(certificate, chain), (key, secret)] = certificate(&at, |it| Some((path(it)?, file(it)?)))?;
        let files = CertificateFiles { certificate, key, asks_clients: false };
        if let Err(error) = server_config(&chain, &secret, false) {
            at.error(format!("{files}: {error}"), "a certificate and the key that belongs to it, in PEM");
        }
        Some(files)
    });
    Guard { tls, token: fields.optional("token_file", |it| secret(&it).map(Credential::from)) }
}

pub(super) fn must_be_guarded(at: &Reader<'_>, what: &str, address: SocketAddr, guard: &Guard) {
    if address.ip().is_loopback() || (guard.tls.is_some() && guard.token.is_some()) {
        return;
    }
    at.error(
        format!("{what} {address} is off loopback, where TLS and a token are required"),
        "`tls = { certificate = \"…\", key = \"…\" }` and `token_file = \"…\"` beside it, or a loopback address",
    );
}

/// DNS has no tokens, so every client that reaches the registry's names can read them.
pub(super) fn must_be_intended(at: &Reader<'_>, address: SocketAddr, exposed: bool) {
    if address.ip().is_loopback() || exposed {
        return;
    }
    at.error(
        format!("{address} is off loopback, where every client can read all services and nodes"),
        "`dns_exposed = true` beside it, if that is intended, or a loopback address",
    );
}

fn secret(at: &Reader<'_>) -> Option<Secret> {
    let bytes = file(at)?;
    token_file::secret(&bytes).map_err(|error| at.error(error, token_file::EXPECTED)).ok()
}

/// The token that a client sends. The file need not exist yet: `token bootstrap` writes it.
pub(super) fn token_to_send(at: &Reader<'_>) -> Option<Credential> {
    if path(at)?.try_exists().is_ok_and(|there| !there) {
        return Some(Credential::default());
    }
    secret(at).map(Credential::from)
}

/// The file of the authorities that a section trusts. It is read apart from the certificates themselves, so a change in
/// between can be missed until the next one.
pub(super) fn ca_file(fields: &Fields<'_>, section: &'static str, key: &str) -> Option<FileInUse> {
    let section = fields.get(section)?;
    let Value::Scalar(path) = &section.node().entry(key)?.value.value else { return None };
    let path = PathBuf::from(&path.text);
    let content = Content::of(&[small_file::read_at_once(&path, small_file::MAX).ok()?]);
    Some(FileInUse { path, content })
}

/// The token files that a node reads again, with the credentials that they fill.
pub(super) fn token_files(
    fields: &Fields<'_>,
    store: Option<&Store>,
    prober: Option<&prober::Config>,
    [control, telemetry]: [Option<&Guard>; 2],
) -> Vec<TokenFile> {
    let stores = store.and_then(|it| match it {
        Store::Embedded(it) => it.guard.token.as_ref(),
        Store::Consul(it) => it.token.as_ref(),
    });
    let found = [
        ("store", "[store] token_file", stores),
        ("prober", "[prober] token_file", prober.and_then(|it| it.token.as_ref())),
        ("control", "[control] token_file", control.and_then(|it| it.token.as_ref())),
        ("telemetry", "[telemetry] token_file", telemetry.and_then(|it| it.token.as_ref())),
    ];
    let named = |(section, what, credential): (&'static str, &'static str, Option<&Credential>)| {
        let credential = credential?.clone();
        // There is a credential, so the value is a text.
        let Value::Scalar(path) = &fields.get(section)?.node().entry("token_file")?.value.value else {
            return None;
        };
        Some(TokenFile { what, path: PathBuf::from(&path.text), credential })
    };
    found.into_iter().filter_map(named).collect()
}
