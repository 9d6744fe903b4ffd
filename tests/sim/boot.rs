//! How nodes start: the program's own parts, each given its rim.

use std::sync::{Arc, Mutex};

use prober::Admin;
use store::{
    disk::LastGood,
    engine::embedded::{self, Embedded},
    follow::{self, Identity, Options},
    handle::Clock,
    model::Moment,
};
use tokio::{runtime::Runtime, time::Instant};
use waypost::control;

use crate::{
    net::{Id, Seat, lock},
    node::{Node, Role, slot},
    oracle::Inputs,
    rim::{Doors, Evidence, Link, Office, POLL, Roads},
    run::{Sabotage, Simulation},
    world::World,
};

impl Simulation {
    /// Starts a node's next life.
    pub fn boot(&mut self, id: Id, memory: LastGood, life: u32) {
        let rate = self.world.clocks[&id];
        let runtime = runtime();
        let guard = runtime.enter();
        let seat = Seat { id, net: Arc::clone(&self.net), began: (Instant::now(), self.now), rate };
        let clock = Clock::starting_at(Moment(World::wall(self.seed, id, life, self.now)));
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

    fn link(&self, seat: &Seat, inputs: &Arc<Mutex<Inputs>>) -> Arc<Link> {
        let reader = seat.id.0 / 10 == 3;
        let sabotage = if reader { self.sabotage } else { Sabotage::None };
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
        let (handle, memory, identity) = (slot(), memory.clone(), identity(seat.id, "control", life));
        let kept = Arc::clone(&handle);
        let config = control::Config::new(
            World::name(seat.id).parse().unwrap(),
            "s0".parse().unwrap(),
            identity.boot.clone(),
        );
        runtime.spawn(async move {
            let engine: Arc<Link> = link;
            let options = Options { heartbeat_every: control::HEARTBEAT_EVERY, ..options() };
            let (handle, follower) =
                follow::start_from(engine.clone(), memory, clock, identity, options).await;
            let control = control::start(config, engine, handle);
            *lock(&kept) = Some(control.handle());
            control.run(std::future::pending()).await.unwrap();
            drop(follower);
        });
        Role::Control { handle }
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
        let (handle, memory, identity) = (slot(), memory.clone(), identity(seat.id, "dns", life));
        let kept = Arc::clone(&handle);
        let sites = (0..self.world.sites).map(|n| (World::address(n), World::site(n))).collect();
        let dialer = Arc::new(Doors { seat: seat.clone(), sites });
        let options = Options { dialer: Some(dialer), ..options() };
        runtime.spawn(async move {
            let (handle, follower) = follow::start_from(link, memory, clock, identity, options).await;
            *lock(&kept) = Some(handle);
            std::future::pending::<()>().await;
            drop(follower);
        });
        Role::Reader { handle, inputs }
    }

    fn start_prober(&self, runtime: &Runtime, seat: &Seat, clock: Clock, life: u32) -> Role {
        let evidence: Arc<Mutex<Evidence>> = Arc::default();
        let number = seat.id.0 % 10;
        let controls: Vec<Id> = (0..self.world.controls).map(World::control).collect();
        let vantage: store::model::Name = World::name(seat.id).parse().unwrap();
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

fn identity(id: Id, role: &str, life: u32) -> Identity {
    let node = World::name(id);
    Identity { boot: format!("{node}-{life}"), node, site: "s0".into(), roles: [role.to_owned()].into() }
}

fn options() -> Options {
    Options { wait: POLL, ..Options::default() }
}

fn start_engine(runtime: &Runtime) -> Role {
    let engine = runtime.block_on(Embedded::in_memory(embedded::Options::default()));
    Role::Engine { engine: Arc::new(Mutex::new(Some(engine))) }
}
