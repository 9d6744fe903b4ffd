//! A service that is registered at one site only, asked for at the other site's gateway: what its clients see while its site is
//! well, drained, losing instances, cut off and dead.

use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use waypost::demo::load::Report;

use crate::{
    asking::load,
    components::Components,
    harness::{Backing, ensure, eventually, full},
    sites_rig::{PATIENCE, Rig, only, two},
};

const RATE: u32 = 50;

pub fn trials(components: &Components) -> Vec<Trial> {
    vec![components.needs_namespaces("across::what_clients_see_of_a_service_of_another_site", || {
        clients_see(&Backing::Embedded)
    })]
}

/// What happened, and what was seen meanwhile.
struct Seen {
    scene: &'static str,
    report: Report,
}

fn clients_see(backing: &Backing) -> Result<(), Failed> {
    let mut rig = Rig::start(&two(backing), (1, 0))?;
    rig.start_back_end("sh", "only-sh", "only-sh-2")?;
    let mut seen = Vec::new();
    let mut scene = |rig: &mut Rig, scene: &'static str, act: &dyn Fn(&mut Rig) -> Result<(), Failed>| {
        let load = load(rig.place("bj"), &[rig.site("bj").gateway()], &only("sh"), RATE);
        std::thread::sleep(Duration::from_millis(500));
        act(rig)?;
        std::thread::sleep(Duration::from_secs(if full() { 20 } else { 4 }));
        let report = rig.place("bj").run(load.finish());
        seen.push(Seen { scene, report });
        Ok::<_, Failed>(())
    };
    eventually("both instances across", PATIENCE, || serves(&rig, "only-sh-1") && serves(&rig, "only-sh-2"))?;
    scene(&mut rig, "all is well", &|_| Ok(()))?;
    scene(&mut rig, "its site is drained (an override)", &|rig| {
        rig.done(
            "bj",
            &[
                "override", "set", "sh-away", "--site", "sh", "--state", "drain", "--owner", "o", "--reason",
                "r",
            ],
        )?;
        Ok(())
    })?;
    rig.done("bj", &["override", "clear", "sh-away"])?;
    scene(&mut rig, "one of its two instances is drained, ordered here", &|rig| {
        rig.done("bj", &["drain", "instance", "only-sh", "only-sh-2", "--site", "sh", "--wait"])?;
        Ok(())
    })?;
    rig.kill("sh", "only-sh-2");
    rig.start_back_end("sh", "only-sh", "only-sh-3")?;
    eventually("both instances across", PATIENCE, || serves(&rig, "only-sh-3"))?;
    scene(&mut rig, "one of its two instances is killed", &|rig| {
        rig.kill("sh", "only-sh-3");
        Ok(())
    })?;
    scene(&mut rig, "the control and the engine of its site are killed", &|rig| {
        rig.kill("sh", "control");
        rig.kill("sh", "engine");
        Ok(())
    })?;
    rig.start_roles("sh", &["engine", "control"])?;
    rig.all_well()?;
    scene(&mut rig, "its site is cut off (packets are lost)", &|rig| rig.net.cut("bj", "sh"))?;
    rig.net.heal()?;
    println!("  served again {:.1?} after the link was back", served_again(&rig)?);
    rig.all_well()?;
    scene(&mut rig, "its site is killed whole", &|rig| {
        rig.kill_site("sh");
        Ok(())
    })?;
    rig.start_site("sh", 4)?;
    println!("  served again {:.1?} after the site was started", served_again(&rig)?);
    rig.all_well()?;
    report(&seen)
}

fn serves(rig: &Rig, id: &str) -> bool {
    (0..10).any(|_| rig.served("bj", "bj", &only("sh")).is_ok_and(|it| it == (200, id.to_owned())))
}

fn served_again(rig: &Rig) -> Result<Duration, Failed> {
    let began = Instant::now();
    eventually("a service across again", PATIENCE, || {
        rig.served("bj", "bj", &only("sh")).is_ok_and(|(status, _)| status == 200)
    })?;
    Ok(began.elapsed())
}

fn report(seen: &[Seen]) -> Result<(), Failed> {
    println!(
        "  | at the other site's gateway, {RATE} requests a second | requests | served | failed | slowest |"
    );
    println!("  |---|---|---|---|---|");
    for Seen { scene, report } in seen {
        let failures: Vec<String> =
            report.failures.iter().map(|(what, count)| format!("{count} × {what}")).collect();
        let served = report.sent - report.failed();
        println!(
            "  | {scene} | {} | {served} | {} | {:.0?} |",
            report.sent,
            failures.join("; "),
            report.slowest
        );
    }
    // While the instances live and can be reached, whatever else of their site dies, no request fails; afterwards each is
    // answered, and with what says that nothing is there.
    for Seen { scene, report } in seen {
        let is_gone = scene.contains("cut off") || scene.contains("killed whole");
        if is_gone {
            let told =
                report.failures.keys().all(|it| ["502", "503", "504"].iter().any(|code| it.contains(code)));
            ensure(told, || format!("{scene}: {:?}", report.failures))?;
        } else {
            ensure(report.failed() == 0, || format!("{scene}: {:?}", report.failures))?;
        }
    }
    Ok(())
}
