//! The gateway as clients and instances see it: the scenarios of `tests/gateway/run`, the corpus of hostile requests, and what
//! clients and instances may do wrong, each on processes of its own.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use libtest_mimic::{Failed, Trial};

use crate::{
    components::Components,
    harness::{ensure, full},
};

pub fn trials(components: &Components) -> Vec<Trial> {
    let mut trials: Vec<Trial> = scenarios()
        .into_iter()
        .map(|name| {
            let arguments = vec![name.clone()];
            components
                .needs_gateway_tools(&format!("gateway::{name}"), move || play("gateway/run", &arguments))
        })
        .collect();
    trials.push(
        components.needs_gateway_tools("gateway::hostile_requests_are_refused_or_forwarded_as_one", || {
            play("gateway/hostile", &[])
        }),
    );
    trials.push(components.needs_gateway_tools(
        "gateway::what_peers_do_wrong_is_not_taken_from_others",
        || {
            let mut arguments = vec!["--of".to_owned(), "waypost".to_owned()];
            if !full() {
                arguments.push("--short".to_owned());
            }
            play("bench/gateway-faults", &arguments)
        },
    ));
    trials
}

fn script(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// The names of the scenarios; none without Python, which another trial then says.
fn scenarios() -> Vec<String> {
    let listed = Command::new(script("gateway/run")).arg("--list").output();
    let text = listed.map(|it| String::from_utf8_lossy(&it.stdout).into_owned()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn play(path: &str, arguments: &[String]) -> Result<(), Failed> {
    let output = Command::new(script(path))
        .args(arguments)
        .env("WAYPOST_BINARY", env!("CARGO_BIN_EXE_waypost"))
        .env("WAYPOST_FULL", if full() { "1" } else { "0" })
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    ensure(output.status.success(), || format!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}
