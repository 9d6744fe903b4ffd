//! The commands about tokens: create, list and delete. `token bootstrap` and `token reset` have rooms of their own.

use std::io::{self, IsTerminal as _};

use store::model::{Kind, Name, Role, Scope};

use super::{
    arguments::Token,
    bootstrap::{self, BOOTSTRAP, waiting_text},
    client::{Client, segment},
    commands::{delete_at, list},
    failure::{Failure, Outcome},
    results::{CreatedToken, CreatedTokens},
    servers::{Answer, RUN_AGAIN, Servers, conclude},
    show::{self, print},
};
use crate::{
    api::{self, MadeToken, NewToken},
    auth, out,
};

pub(super) async fn run(servers: &Servers, token: Token) -> Outcome {
    match token {
        Token::List => list(servers, Kind::Token, pending_text).await,
        Token::Delete { name, force } => {
            let path = format!("/v1/documents/token/{}", segment(&name));
            delete_at(servers, &format!("Token {name}"), &path, &format!("?force={force}")).await
        }
        Token::Create { name, role, vantage, services, site, replace } => {
            let scope = Scope { vantage, services: (!services.is_empty()).then_some(services), site };
            create(servers, name, role, scope, replace).await
        }
        Token::Bootstrap(wanted) => bootstrap::run(servers.only()?, wanted, servers.json).await,
        // It needs no control and was run before.
        Token::Reset(_) => Ok(()),
    }
}

/// The text below the tokens of a server in `token list`.
async fn pending_text(client: &Client) -> Result<String, Failure> {
    let state: api::BootstrapState = client.get(BOOTSTRAP, &[]).await?;
    let waits = state.pending.map(|it| format!("\n{}", waiting_text(&it.operator, &it.waits_for)));
    Ok(waits.unwrap_or_default())
}

/// Generates one secret and sends its digest to every server. The secret is printed if any of them accepted it.
async fn create(servers: &Servers, name: Name, role: Role, scope: Scope, replace: bool) -> Outcome {
    let secret = auth::new_secret();
    let secret_sha256 = Some(auth::digest(&secret));
    let wanted = NewToken { name: name.clone(), role, scope, secret: None, secret_sha256, replace };
    // Contradictions in the request come from the command line.
    let ask = async |client: &Client| {
        client.post::<MadeToken>("/v1/tokens", &wanted).await.map_err(Failure::of_files)
    };
    if !servers.are_several() {
        let made = ask(servers.only()?).await?;
        if servers.json {
            return show::json(&CreatedToken { generation: made.generation, secret: &secret });
        }
        return print_secret(&name, &secret);
    }
    if !replace {
        refuse_if_present(servers, &name).await?;
    }
    let say = |made: &MadeToken| format!("+ Token {name}\ngeneration {}\n", made.generation);
    let done = |answer: &Answer<MadeToken>| {
        if !servers.json {
            // Standard output has only the secret.
            out::note(servers.describe(answer, say).trim_end());
        }
    };
    let answers = servers.ask(ask, done).await;
    let some = answers.iter().any(|it| it.result.is_ok());
    if servers.json {
        let secret = some.then_some(secret.as_str());
        show::json(&CreatedTokens { secret, servers: answers.iter().map(Answer::to_json).collect() })?;
    } else if some {
        print_secret(&name, &secret)?;
    }
    let again =
        if some { "run it again with --replace, which puts one new secret to all" } else { RUN_AGAIN };
    conclude(&answers, again)
}

/// Refuses to create a token that a server has already, because the others would get another secret. Servers that do not
/// answer are skipped.
async fn refuse_if_present(servers: &Servers, name: &Name) -> Outcome {
    let path = format!("/v1/documents/token/{}", segment(name.as_str()));
    let answers = servers.ask(async |client: &Client| client.has(&path).await, |_| ()).await;
    let has = |it: Answer<bool>| matches!(it.result, Ok(true)).then_some(it.server);
    let has: Vec<String> = answers.into_iter().filter_map(has).collect();
    if has.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "there is a token {name} already at {}, and nothing was changed: take another name, or put one new secret to all \
         with --replace, which ends the old one",
        has.join(" and ")
    )))
}

fn print_secret(name: &Name, secret: &str) -> Outcome {
    if io::stdout().is_terminal() {
        out::note(&format!("The secret of {name}; it is stored nowhere:"));
    }
    print(&format!("{secret}\n"))
}
