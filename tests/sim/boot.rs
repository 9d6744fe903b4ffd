//! How nodes start: the program's own parts, each given its rim.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use prober::Admin;
use store::{
    disk::LastGood,
    engine::embedded::{self, Embedded},
    follow::{self, Identity, Options},
    handle::Clock,
    model::{ControlUrl, Moment, Name},
};
use tokio::{runtime::Runtime, time::Instant};
use waypost::{control, sites::Own};

use crate::{
    net::{Id, Seat, lock},
    node::{Node, Role, slot},
    oracle::Inputs,
    rim::{Doors, Evidence, Link, Office, POLL, Roads},
    run::{Sabotage, Simulation},
    sites::{
        self,
        carry::{Door, url_of},
    },
    world::World,
};

impl Simulation {
    /// Starts a node's next life.
    pub fn boot(&mut self, id: Id, memory: LastGood, life: u32) {
        let rate = self.world.clocks[&id];
        let runtime = runtime();
        let guard = runtime.enter();
        let seat = Seat { id, net: Arc::clone(&self.net), began: (Instant::now(), self.now), rate };
        let clock = Clock::starting_at(Moment(self.world.wall(self.seed, id, life, self.now)));
        drop(guard);
        let random = self.seed ^ (u64::from(id.0) << 32) ^ (u64::from(life) << 48);
        fastrand::seed(random);
        let kind = id.0 / 10;
        let role = match kind {
            0 => start_engine(&runtime),
            1 => self.start_control(&runtime, &seat, &memory, clock, life),
            2 => self.start_prober(&runtime, &seat, clock, life),
            _ => self.start_reader(&runtime, &seat, &memory, clock, life),
        };
        lock(&self.net).restart(id);
        let node = Node { id, seat, role, runtime: Some(runtime), life, memory, random };
        self.nodes.insert(id, node);
    }

    fn site_name(&self, id: Id) -> Name {
        let site = self.world.site_of(id).filter(|_| self.world.connected).unwrap_or(0);
        format!("s{site}").parse().unwrap()
    }

    fn link(&self, seat: &Seat, inputs: &Arc<Mutex<Inputs>>) -> Arc<Link> {
        let reader = seat.id.0 / 10 == 3;
        let sabotage = if reader || self.world.connected { self.sabotage } else { Sabotage::None };
        let engine = self.world.engine_of[&seat.id];
        Arc::new(Link { seat: seat.clone(), engine, inputs: Arc::clone(inputs), sabotage })
    }

    fn start_control(
        &self,
        runtime: &Runtime,
        seat: &Seat,
        memory: &LastGood,
        clock: Clock,
        life: u32,
    ) -> Role {
        let link = self.link(seat, &Arc::default());
        let site = self.site_name(seat.id);
        let memory = memory.clone();
        let (handle, door, identity) = (slot(), slot(), identity(seat.id, &site, &["control"], life));
        let (kept, opened) = (Arc::clone(&handle), Arc::clone(&door));
        let node: Name = World::name(seat.id).parse().unwrap();
        let mut config = control::Config::new(node.clone(), site.clone(), identity.boot.clone());
        let joins = self.world.connected && site.as_str() != "s0";
        config.joins = joins;
        config.lost = self.connected.lost.get(&seat.id).map(|it| it.path().to_owned());
        let boot = identity.boot.clone();
        let own = Own { site, node, boot, certificate: None, folder: PathBuf::new() };
        let home: Vec<ControlUrl> =
            self.world.controls_of(0).into_iter().map(|it| url_of(it).parse().unwrap()).collect();
        let connected = self.world.connected;
        runtime.spawn(async move {
            let engine: Arc<Link> = Arc::clone(&link);
            let options = Options { heartbeat_every: control::HEARTBEAT_EVERY, ..options() };
            let (handle, follower) =
                follow::start_from(engine.clone(), memory, clock, identity, options).await;
            let control = control::start(config, engine, handle.clone());
            let exchange = control.handle();
            *lock(&kept) = Some(control.handle());
            let door = Door::new(link, handle, control.handle(), own);
            let peers = door.peers.clone();
            *lock(&opened) = Some(door);
            let join = joins.then(|| peers.at(home, None, "/site.token".into()));
            tokio::select! {
                biased;
                ran = control.run(std::future::pending()) => ran.unwrap(),
                () = exchange.follow_sites(peers, join), if connected => {}
            }
            drop(follower);
        });
        Role::Control { handle, door }
    }

    fn start_reader(
        &self,
        runtime: &Runtime,
        seat: &Seat,
        memory: &LastGood,
        clock: Clock,
        life: u32,
    ) -> Role {
        let inputs: Arc<Mutex<Inputs>> = Arc::default();
        let link = self.link(seat, &inputs);
        let roles: &[&str] = if self.world.connected { &["dns", "proxy"] } else { &["dns"] };
        let (handle, memory) = (slot(), memory.clone());
        let identity = identity(seat.id, &self.site_name(seat.id), roles, life);
        let kept = Arc::clone(&handle);
        let (connected, chance) = (self.world.connected, self.seed ^ u64::from(seat.id.0));
        let (node, boot) = (World::name(seat.id).parse().unwrap(), identity.boot.clone());
        let sites = (0..self.world.sites).map(|n| (World::address(n), World::site(n))).collect();
        let dialer = Arc::new(Doors { seat: seat.clone(), sites });
        let options = Options { dialer: Some(dialer), ..options() };
        let (seat, load) = (seat.clone(), (self.site_name(seat.id), self.seed, self.world.over));
        runtime.spawn(async move {
            let (handle, follower) = follow::start_from(link, memory, clock, identity, options).await;
            let following = handle.follow_services();
            if connected {
                following.set(["web".to_owned()].into());
            }
            *lock(&kept) = Some(handle.clone());
            if connected {
                let drains = sites::drains::obey(handle.clone(), node, boot, chance);
                tokio::join!(biased; drains, sites::load::carry(handle, seat, load));
            }
            std::future::pending::<()>().await;
            drop((follower, following));
        });
        Role::Reader { handle, inputs }
    }

    fn start_prober(&self, runtime: &Runtime, seat: &Seat, clock: Clock, life: u32) -> Role {
        let evidence: Arc<Mutex<Evidence>> = Arc::default();
        let number = seat.id.0 % 10;
        let controls: Vec<Id> = (0..self.world.controls).map(World::control).collect();
        let vantage: Name = World::name(seat.id).parse().unwrap();
        let office = |control: &Id| {
            Arc::new(Office {
                seat: seat.clone(),
                name: World::name(*control),
                control: *control,
                vantage: vantage.clone(),
                canaries: self.world.canaries[usize::from(number)] > 0,
                evidence: Arc::clone(&evidence),
            }) as Arc<dyn Admin>
        };
        let mut config =
            prober::Config::new(vantage.clone(), controls.iter().map(|it| World::name(*it)).collect());
        let canaries = 0..self.world.canaries[usize::from(number)];
        config.canaries = canaries.map(|n| format!("canary{n}:443").parse().unwrap()).collect();
        let roads = Roads {
            seat: seat.clone(),
            seed: self.seed,
            sites: (0..self.world.sites).map(|n| (World::address(n), World::site(n))).collect(),
            canaries: World::CANARIES,
            evidence: Arc::clone(&evidence),
            sabotage: self.sabotage,
            dials: Mutex::default(),
        };
        let boot = format!("{vantage}-{life}");
        let prober =
            prober::start_over(config, boot, controls.iter().map(office).collect(), Arc::new(roads), clock);
        runtime.spawn(async move { prober.run(std::future::pending()).await.unwrap() });
        Role::Prober { evidence }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn identity(id: Id, site: &Name, roles: &[&str], life: u32) -> Identity {
    let node = World::name(id);
    let roles = roles.iter().map(|it| (*it).to_owned()).collect();
    Identity { boot: format!("{node}-{life}"), node, site: site.to_string(), roles }
}

fn options() -> Options {
    Options { wait: POLL, ..Options::default() }
}

fn start_engine(runtime: &Runtime) -> Role {
    let engine = runtime.block_on(Embedded::in_memory(embedded::Options::default()));
    Role::Engine { engine: Arc::new(Mutex::new(Some(engine))) }
}
