//! A host name leads through its CNAME to the nearest site, and a request to an instance there.

use std::collections::BTreeSet;

use libtest_mimic::Failed;

use crate::harness::{Backing, Demo, ensure};

pub fn lead_to_the_nearest_site_and_an_instance(backing: Backing) -> Result<(), Failed> {
    let demo = Demo::start(&backing)?;
    let answer = demo.resolve().ok_or("no answer")?;
    ensure(answer.chain == [demo.layout.gateway_domain.clone()], || format!("{answer:?}"))?;
    ensure(answer.addresses == [demo.near().ip()], || format!("{answer:?}"))?;
    for (at, site) in demo.layout.sites.iter().enumerate() {
        let seen: BTreeSet<String> =
            (0..60).map(|_| demo.get(site.gateway.address)).collect::<Result<_, _>>()?;
        let home: BTreeSet<String> = site.instances.iter().map(|it| it.id.clone()).collect();
        // Not all of them: one whose first response was slow has few requests for a while.
        let all_at_home = !seen.is_empty() && seen.is_subset(&home);
        ensure(all_at_home, || format!("site {at}: {seen:?} served, {home:?} are at home"))?;
    }
    Ok(())
}
