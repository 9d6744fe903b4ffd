//! What commands print with `--json` where the result is no answer of the admin API.
//!
//! Scripts read these fields, so their names do not change. They are in alphabetical order, as they have always been
//! printed.

use std::{collections::BTreeSet, path::Path};

use serde::Serialize;
use store::model::{Bearer, Generation, InputError};

use super::servers::ServerAnswer;
use crate::api;

/// Of `backup`.
#[derive(Debug, Serialize)]
pub(super) struct WrittenBackup<'a> {
    /// Where it was written.
    pub(super) file: &'a Path,
    /// The generation that it holds.
    pub(super) generation: &'a str,
}

/// Of `token create` at one server.
#[derive(Debug, Serialize)]
pub(super) struct CreatedToken<'a> {
    /// The generation that holds the token.
    pub(super) generation: Generation,
    /// Its secret, which is stored nowhere.
    pub(super) secret: &'a str,
}

/// Of `token create` at several servers.
#[derive(Debug, Serialize)]
pub(super) struct CreatedTokens<'a> {
    /// The secret, if any server accepted its digest.
    pub(super) secret: Option<&'a str>,
    /// What each of them answered.
    pub(super) servers: Vec<ServerAnswer<'a, api::MadeToken>>,
}

/// Of `token bootstrap`.
#[derive(Debug, Serialize)]
pub(super) struct Bootstrapped<F> {
    /// How far the cluster is.
    pub(super) bootstrap: api::BootstrapState,
    /// The files with secrets.
    pub(super) files: F,
}

/// Of `token reset`.
#[derive(Debug, Serialize)]
pub(super) struct ResetTokens {
    /// The operators' tokens that were removed.
    pub(super) ended: Vec<String>,
    /// The generation that holds the result.
    pub(super) generation: Generation,
    /// The new operator's token, if one was made.
    pub(super) operator: Option<String>,
    /// The nodes and vantages that need a token before it is in force.
    pub(super) waits_for: BTreeSet<Bearer>,
}

/// Of `completions`.
#[derive(Debug, Serialize)]
pub(super) struct CompletionScript {
    /// The script.
    pub(super) script: String,
    /// The shell that reads it.
    pub(super) shell: String,
}

/// Of `man`.
#[derive(Debug, Serialize)]
pub(super) struct ManPages<F> {
    /// The files that were written.
    pub(super) files: F,
}

/// Of `check`, on standard error.
#[derive(Debug, Serialize)]
pub(super) struct Warnings<'a> {
    /// What is allowed but probably not intended.
    pub(super) warnings: &'a [InputError],
}
