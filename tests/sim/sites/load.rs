//! The load of gateways, and the shares of the clients of full sites that go elsewhere.

use std::time::Duration;

use store::{
    handle::Handle,
    load::Load,
    model::{Cluster, Name},
};

use crate::{
    net::{Seat, draw},
    run::Simulation,
};

/// What a site can serve, in requests per second.
pub const CAPACITY: u32 = 100;
/// The demand is another one after this time, in milliseconds.
const SLICE: u64 = 15_000;
/// How often a gateway says what it carries, as the real one.
const EVERY: Duration = Duration::from_secs(5);

/// The share that a name server gives a site, by cluster and site, in 65536ths.
type Share = ((Name, Name), Option<u32>);

/// A gateway: it carries the clients that the share of its site leaves to it. The demand changes until the faults are over.
pub async fn carry(handle: Handle, seat: Seat, (site, seed, over): (Name, u64, u64)) {
    loop {
        let slice = seat.true_now().min(over) / SLICE;
        let demand = draw(seed, &[10 << 32, seat.id.0.into(), slice]).f64() * f64::from(CAPACITY) * 3.0;
        if let Some(snapshot) = handle.snapshot() {
            for cluster in snapshot.clusters.values() {
                let share = handle.overflow_share(cluster, &site).unwrap_or_default();
                let elsewhere = f64::from(share.0) / f64::from(store::board::Share::ALL.0);
                handle.carry(Load { cluster: cluster.name.clone(), rate: demand * (1.0 - elsewhere) });
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

impl Simulation {
    /// The name servers of all sites send the same share of a full site's clients elsewhere.
    pub fn difference_of_shares(&self) -> Option<String> {
        let shares = |id| -> Option<Vec<Share>> {
            let handle = self.handle_of(id)?;
            let snapshot = handle.snapshot()?;
            let clusters = snapshot.clusters.values();
            let sites = clusters.flat_map(|it| it.capacity.keys().map(move |site| (&**it, site)));
            let share = |(cluster, site): (&Cluster, &Name)| {
                let share = handle.overflow_share(cluster, site).map(|it| it.0);
                ((cluster.name.clone(), site.clone()), share)
            };
            Some(sites.map(share).collect())
        };
        self.difference_among_readers(shares).map(|what| format!("shares: {what}"))
    }
}
