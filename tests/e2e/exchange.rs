//! Two sites with an engine and a control each: documents from the home, orders from anywhere, also while a site is dark.

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    components::Components,
    harness::{Backing, ensure, eventually},
    loopback_site::{PATIENCE, Site, documents, make_tokens},
};

type Scenario = fn(&Backing) -> Result<(), Failed>;

const SCENARIOS: [(&str, Scenario); 4] = [
    ("documents_and_orders_are_equal_at_both_sites_whatever_is_dark", both_sites),
    ("a_home_that_was_replaced_meanwhile_gives_way_and_keeps_what_it_had", promotion),
    ("a_service_of_one_site_is_served_at_the_other_also_when_that_site_is_dark", across),
    ("a_site_with_other_documents_joins_only_on_order", with_documents),
];

pub fn trials(components: &Components) -> Vec<Trial> {
    let mut all = Vec::new();
    for (name, scenario) in SCENARIOS {
        all.push(Trial::test(format!("exchange::embedded::{name}"), move || scenario(&Backing::Embedded)));
        all.push(components.needs_consul(format!("exchange::consul::{name}"), move |consul| {
            scenario(&Backing::Consul(consul))
        }));
    }
    all
}

fn sites(folder: &TempDir, backing: &Backing) -> Result<[Site; 2], Failed> {
    let site = |name| Site::new(folder.path(), name, [127, 0, 0, 1], backing);
    Ok([site("bj")?, site("sh")?])
}

fn set_override(at: &Site, name: &str, site: &str) -> Result<String, Failed> {
    at.done(&["override", "set", name, "--site", site, "--state", "drain", "--owner", "o", "--reason", "r"])
}

/// Two sites of which `bj` has joined `sh`, where the documents are.
fn joined(folder: &TempDir, backing: &Backing) -> Result<(Site, Site), Failed> {
    let [mut bj, mut sh] = sites(folder, backing)?;
    sh.start(None)?;
    let (applied, text) = sh.apply(&documents(&bj, &sh), &[])?;
    ensure(applied && text.contains("@sh"), || text)?;
    make_tokens(&sh, [&bj, &sh])?;
    bj.start(Some(&sh))?;
    let home = |site: &Site| site.home().as_deref() == Some("sh");
    eventually("one home", PATIENCE, || home(&bj) && home(&sh))?;
    Ok((bj, sh))
}

fn both_sites(backing: &Backing) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let (bj, mut sh) = joined(&folder, backing)?;

    let (applied, text) = sh.apply("kind: Vantage\nname: v\n", &[])?;
    ensure(applied, || text)?;
    eventually("a copy", PATIENCE, || bj.has("vantage", "v"))?;
    let (applied, text) = bj.apply("kind: Vantage\nname: w\n", &[])?;
    ensure(applied && text.contains("@sh") && sh.has("vantage", "w") && bj.has("vantage", "w"), || {
        format!("passed on to the home: {text}")
    })?;
    let (applied, text) = bj.apply("kind: Domain\nname: a.example.com\ncluster: none\n", &[])?;
    ensure(!applied && text.contains("there is no Cluster none"), || {
        format!("the errors of the home: {text}")
    })?;
    bj.done(&["token", "create", "ci", "--role", "automation"])?;
    eventually("a token", PATIENCE, || bj.has("token", "ci") && sh.has("token", "ci"))?;
    set_override(&bj, "from-bj", "bj")?;
    eventually("an order at the other site", PATIENCE, || sh.has("override", "from-bj"))?;
    let (promoted, text) = bj.command(&["promote"])?;
    ensure(!promoted && text.contains("the home, the site sh, answers"), || text)?;

    let text = bj.done(&["orders"])?;
    ensure(text.contains("Override from-bj") && text.contains("drain site bj"), || text)?;
    let (waited, text) = bj.apply("kind: Vantage\nname: y\n", &["--wait"])?;
    ensure(waited && text.contains("bj: 1 node") && text.contains("sh: 1 node"), || text)?;

    sh.kill();
    bj.done(&["override", "clear", "from-bj"])?;
    eventually("a dark site", PATIENCE, || bj.has_problem("site_dark"))?;
    let text = set_override(&bj, "meanwhile", "sh")?;
    ensure(text.contains("the site sh does not answer"), || text)?;
    bj.done(&["token", "delete", "ci"])?;
    ensure(!bj.has("token", "ci"), || "the token is valid".to_owned())?;
    let orders: Value = bj.json(&["orders"])?;
    let of =
        |about: &str| orders.as_array().and_then(|all| all.iter().find(|it| it["about"] == about)).cloned();
    let (deleted, drained) = (of("Token ci"), of("Override meanwhile"));
    let is_here = |order: &Option<Value>| {
        order
            .as_ref()
            .is_some_and(|it| it["in_force"] == true && it["pending"][0] == "sh" && it["site"] == "bj")
    };
    ensure(is_here(&deleted) && is_here(&drained), || orders.to_string())?;
    let (applied, text) = bj.apply("kind: Vantage\nname: x\n", &[])?;
    ensure(!applied && text.contains("which cannot be asked") && text.contains("waypost promote"), || text)?;
    sh.start(None)?;
    eventually("the orders given meanwhile", PATIENCE, || {
        sh.has("override", "meanwhile") && !sh.has("override", "from-bj") && !sh.has("token", "ci")
    })?;
    eventually("an order that has arrived", PATIENCE, || {
        bj.done(&["--json", "orders"]).is_ok_and(|text| !text.contains("pending"))
    })?;
    eventually("no dark site", PATIENCE, || !bj.has_problem("site_dark"))?;
    Ok(())
}

/// The home commits, is lost, comes back, and gives way to the site that was promoted meanwhile.
fn promotion(backing: &Backing) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let (mut bj, mut sh) = joined(&folder, backing)?;
    bj.kill();
    let (applied, text) = sh.apply("kind: Vantage\nname: lost\n", &[])?;
    ensure(applied, || text)?;
    sh.kill();
    bj.start(Some(&sh))?;
    let text = bj.done(&["promote"])?;
    ensure(text.contains("@bj") && text.contains("the site sh could not be asked"), || text)?;
    let (applied, text) = bj.apply("kind: Vantage\nname: kept\n", &[])?;
    ensure(applied && text.contains("@bj"), || text)?;
    sh.start(None)?;
    eventually("one home", PATIENCE, || sh.has("vantage", "kept") && !sh.has("vantage", "lost"))?;
    ensure(sh.has_problem("configuration_lost"), || "status does not list it".to_owned())?;
    let text = sh.done(&["promote", "--show-lost"])?;
    ensure(text.contains("name: lost") && text.contains("generation 1."), || text)?;
    let (applied, text) = sh.apply("kind: Vantage\nname: later\n", &[])?;
    ensure(applied && text.contains("@bj") && bj.has("vantage", "later"), || text)
}

/// A site with documents of its own joins if they are the same, or if a person orders it to take the home's.
fn with_documents(backing: &Backing) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let [mut bj, mut sh] = sites(&folder, backing)?;
    std::fs::write(bj.file("site.token"), "a-token-that-is-replaced-later")?;
    sh.start(None)?;
    bj.start(Some(&sh))?;
    let own = documents(&bj, &sh) + "---\nkind: Vantage\nname: own\n";
    let (applied, text) = bj.apply(&own, &[])?;
    ensure(applied && !text.contains('@'), || format!("a site that joins is no home: {text}"))?;
    // Its epoch is higher than that of the home.
    let backup = bj.file("backup").display().to_string();
    bj.done(&["backup", "-o", &backup])?;
    let text = bj.done(&["restore", &backup])?;
    ensure(text.contains("generation 2."), || text)?;
    let (applied, text) = sh.apply(&documents(&bj, &sh), &[])?;
    ensure(applied && text.contains("generation 1."), || text)?;
    make_tokens(&sh, [&bj, &sh])?;
    eventually("a refusal with the differences", PATIENCE, || {
        bj.command(&["status"]).is_ok_and(|(_, text)| text.contains("Vantage own is only here"))
    })?;
    ensure(bj.has("vantage", "own"), || "nothing is done".to_owned())?;
    let text = bj.done(&["join", "--take-home"])?;
    ensure(text.contains("@sh") && !bj.has("vantage", "own"), || text)
}

/// A service that is registered at one site only.
fn across(backing: &Backing) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let (bj, mut sh) = joined(&folder, backing)?;
    let service =
        "kind: Service\nname: web\ncluster: main\nconsul: { service: web }\nhosts: [web.example.com]\n";
    let (applied, text) = bj.apply(service, &[])?;
    ensure(applied, || text)?;
    let first = sh.back_end("web", "w1")?;
    let served =
        |site: &Site, id: &str| site.ask("web.example.com").is_ok_and(|it| it == (200, id.to_owned()));
    eventually("an instance at its own site", PATIENCE, || served(&sh, "w1"))
        .map_err(|error| Failed::from(format!("{error:?}: {:?}", sh.ask("web.example.com"))))?;
    eventually("an instance of another site", PATIENCE, || served(&bj, "w1"))?;
    // What its site takes away is taken away here too.
    drop(first);
    let second = sh.back_end("web", "w2")?;
    eventually("another instance", PATIENCE, || served(&bj, "w2"))?;
    // The site is dark, engine and all, and the instance goes on.
    sh.kill();
    eventually("a dark site", PATIENCE, || bj.has_problem("site_dark"))?;
    for _ in 0..20 {
        let answer = bj.ask("web.example.com")?;
        ensure(answer == (200, "w2".to_owned()), || format!("{answer:?} while its site is dark"))?;
    }
    drop(second);
    eventually("an answer without an instance", PATIENCE, || {
        bj.ask("web.example.com").is_ok_and(|(status, _)| status >= 502)
    })?;
    Ok(())
}
