//! Processes of two sites are killed at any step of commits, copies, orders and drains: every engine has a whole generation at every
//! moment, nothing that was acknowledged is lost, and in the end everything is the same everywhere.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};

use crate::{
    components::Components,
    harness::{Backing, ensure, eventually, full},
    sites_rig::{PATIENCE, Rig},
};

pub fn trials(components: &Components) -> Vec<Trial> {
    vec![components.needs_namespaces_and_consul(
        "steps::killed_at_any_step_of_a_commit_a_copy_an_order_and_a_drain",
        kills,
    )]
}

/// What is done while a process is killed.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// Documents are applied at a site; at one that is not the home they are passed on.
    Apply(&'static str),
    /// An override is ordered at a site.
    Order(&'static str),
    /// An instance of bj is drained, ordered at a site.
    Drain(&'static str),
}

const WORKS: [Work; 6] = [
    Work::Apply("bj"),
    Work::Drain("sh"),
    Work::Order("bj"),
    Work::Apply("sh"),
    Work::Drain("bj"),
    Work::Order("sh"),
];
const VICTIMS: [(&str, &str); 6] = [
    ("bj", "control"),
    ("sh", "control"),
    ("bj", "engine"),
    ("sh", "engine"),
    ("sh", "gateway"),
    ("bj", "dns"),
];
/// The steps of a piece of work take about this long: a kill is at any moment of it.
const STEPS: Duration = Duration::from_millis(150);

fn kills(consul: PathBuf) -> Result<(), Failed> {
    let mut rig = Rig::start(&[("bj", Backing::Embedded), ("sh", Backing::Consul(consul))], (1, 0))?;
    let rounds = if full() { 50 } else { 9 };
    let mut random = fastrand::Rng::with_seed(11);
    let mut outcomes: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    // The numbers that were acknowledged last, and those that may or may not have been taken.
    let (mut acknowledged, mut ordered, mut drained) = (0, Vec::new(), Vec::new());
    rig.apply("bj", &pair(0))?;
    for round in 1..=rounds {
        let work = WORKS[round % WORKS.len()];
        let (site, victim) = VICTIMS[random.usize(..VICTIMS.len())];
        let moment = STEPS.mul_f64(random.f64());
        if let Work::Drain(_) = work {
            rig.start_back_end("bj", "web", &format!("leaver-{round}"))?;
            // Both sites hear of it.
            std::thread::sleep(Duration::from_secs(2));
        }
        let said = killed_during(&mut rig, work, round, (site, victim), moment)?;
        let done = said.is_some();
        outcomes.entry(format!("{work:?}, {victim} of {site} killed")).or_default()[usize::from(done)] += 1;
        match work {
            Work::Apply(_) if done => acknowledged = round,
            Work::Order(_) if done => ordered.push(format!("order-{round}")),
            Work::Drain(_) => drained.extend(said.map(|id| id.trim().to_owned())),
            _ => {}
        }
        rig.start_roles(site, &[victim])?;
        whole_at_both(&rig, acknowledged).map_err(|failed| {
            format!("round {round}, {work:?}, {victim} of {site} after {moment:?}: {failed:?}")
        })?;
        rig.all_well()
            .map_err(|failed| format!("round {round}, {work:?}, {victim} of {site}: {failed:?}"))?;
    }
    same_in_the_end(&rig, &ordered, &drained)?;
    for (what, [failed, done]) in outcomes {
        println!("  {what}: {done} acknowledged, {failed} not");
    }
    println!("  {rounds} kills, every generation whole, all orders and drains at both sites");
    Ok(())
}

/// Two documents of different shards that are always changed together.
fn pair(number: usize) -> String {
    ["one", "two"]
        .map(|name| {
            format!(
                "kind: Service\nname: {name}\ncluster: main\nconsul: {{ service: number-{number} }}\n---\n"
            )
        })
        .concat()
}

/// Does a piece of work and kills a process in the middle of it; what was printed if the work was acknowledged.
fn killed_during(
    rig: &mut Rig,
    work: Work,
    round: usize,
    (site, victim): (&str, &str),
    moment: Duration,
) -> Result<Option<String>, Failed> {
    let (name, leaver) = (format!("order-{round}"), format!("leaver-{round}"));
    let mut command = match work {
        Work::Apply(at) => rig.applying(at, &pair(round))?,
        Work::Order(at) => rig.typing(at, &Rig::order(&name)),
        Work::Drain(at) => rig.typing(at, &["drain", "instance", "web", &leaver, "--site", "bj"]),
    };
    let mut child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn()?;
    std::thread::sleep(moment);
    rig.kill(site, victim);
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            let printed = String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned();
            return Ok(status.success().then_some(printed));
        }
        if began.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(format!("{work:?} has no end after {victim} of {site} was killed").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The number in both documents of a site, which must be the same, and not older than what was acknowledged at the home.
fn number(rig: &Rig, site: &str) -> Option<Result<usize, Failed>> {
    let text = rig.done(site, &["export"]).ok()?;
    let numbers: Vec<usize> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("consul:").and_then(|it| it.split_once("number-")))
        .filter_map(|(_, rest)| {
            rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
        })
        .collect();
    Some(match numbers.as_slice() {
        [one, two] if one == two => Ok(*one),
        other => Err(format!("{site} has half of a generation: {other:?}").into()),
    })
}

fn whole_at_both(rig: &Rig, acknowledged: usize) -> Result<(), Failed> {
    let mut half = None;
    eventually("the acknowledged documents at both sites", PATIENCE, || {
        let numbers: Vec<_> = ["bj", "sh"].iter().map(|site| number(rig, site)).collect();
        let mut found = Vec::new();
        for number in numbers {
            match number {
                Some(Ok(number)) => found.push(number),
                Some(Err(failed)) => half = Some(failed),
                None => {}
            }
        }
        half.is_some() || (found.len() == 2 && found[0] == found[1] && found[0] >= acknowledged)
    })?;
    half.map_or(Ok(()), Err)
}

fn same_in_the_end(rig: &Rig, ordered: &[String], drained: &[String]) -> Result<(), Failed> {
    let phases = |site: &str| -> BTreeMap<String, String> {
        let text = rig.done(site, &["--json", "drain", "list"]).unwrap_or_default();
        let list: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let drains = list.as_array().or_else(|| list["drains"].as_array()).into_iter().flatten();
        let text = |it: &serde_json::Value| it.as_str().unwrap_or_default().to_owned();
        drains.map(|it| (text(&it["id"]), text(&it["phase"]))).collect()
    };
    eventually("every drain done at both sites", PATIENCE, || {
        let (bj, sh) = (phases("bj"), phases("sh"));
        let is_done = |id: &String| bj.get(id).is_some_and(|phase| phase == "done");
        bj == sh && drained.iter().all(is_done) && bj.values().all(|phase| phase == "done")
    })
    .map_err(|failed| format!("{failed:?}: {drained:?}, {:?} and {:?}", phases("bj"), phases("sh")))?;
    for site in ["bj", "sh"] {
        let view = rig.view(site)?;
        let lost: Vec<&String> = ordered.iter().filter(|it| !view.orders.contains(it.as_str())).collect();
        ensure(lost.is_empty(), || format!("orders that were acknowledged are not at {site}: {lost:?}"))?;
    }
    ensure(rig.done("bj", &["export"])? == rig.done("sh", &["export"])?, || "the documents differ".to_owned())
}
