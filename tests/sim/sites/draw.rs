//! What a seed decides about connected sites: where their nodes are, their documents, and what happens between them.

use std::collections::BTreeMap;

use super::{
    act::{Act, Authority},
    carry::{secret_of, url_of},
    load::CAPACITY,
};
use crate::{
    net::{Gone, Id, draw},
    world::{Event, Faults, World},
};

/// When the faults begin, in milliseconds of true time: every site has joined.
const FAULTS_FROM: u64 = 12_000;

/// How sites are cut off from one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Both(Gone),
    /// Only what the first sends to the second vanishes.
    Forth,
}

/// Something about connected sites.
#[derive(Clone, Debug, PartialEq)]
pub enum Between {
    Cut(u16, u16, Way),
    Heal(u16, u16),
    /// An operator or a tool orders something at a control.
    Order(Id, Act),
    /// The engine's disk is copied; a later `RollBack` puts the copy back.
    BackUp(Id),
    /// An instance is registered at its site's engine, or not any more.
    Instance(u16, bool),
    /// A caller that has the secret of one site, and a certificate of another, orders something at a control.
    Impostor {
        control: Id,
        secret: u16,
        shown: u16,
    },
}

/// Instances per site.
pub const INSTANCES: u16 = 2;

impl World {
    /// The instances are numbered by site.
    pub fn site_of_instance(n: u16) -> u16 {
        n / INSTANCES
    }

    pub fn control_in_document(&self, site: u16) -> String {
        if !self.connected {
            return String::new();
        }
        let urls: Vec<String> =
            self.controls_of(site).into_iter().map(|it| format!("'{}'", url_of(it))).collect();
        format!("control: {{ urls: [{}], token_file: /site.token }}\n", urls.join(", "))
    }

    /// More of the cluster, and the documents that only connected sites have.
    pub fn more_documents(&self, random: &mut fastrand::Rng) -> String {
        if !self.connected {
            return String::new();
        }
        let mut text = String::new();
        if random.f64() < 0.3 {
            let sites: Vec<String> = (0..self.sites).map(|n| format!("s{n}")).collect();
            text += &format!("keep: [{{ at_least: 1, of: [{}] }}]\n", sites.join(", "));
        }
        if random.f64() < 0.3 {
            let sites = (0..self.sites).filter(|_| random.f64() < 0.8);
            let capacity: Vec<String> = sites.map(|n| format!("s{n}: {CAPACITY}")).collect();
            text += &format!("capacity: {{ {} }}\n", capacity.join(", "));
        }
        if random.f64() < 0.25 {
            text += &format!("guard: {{ percent: {}, window: {}s }}\n", random.u8(30..90), random.u8(4..12));
        }
        for n in 0..self.sites {
            let digest = sha256(&secret_of(&format!("s{n}")));
            text += &format!(
                "---\nkind: Token\nname: site-s{n}\nrole: control\nscope: {{ site: s{n} }}\nsecret_sha256: {digest}\n"
            );
        }
        text += "---\nkind: Service\nname: web\nuuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10\ncluster: main\n";
        text + "---\n" + &mark(0)
    }

    /// Draws connected sites.
    pub fn draw_connected(seed: u64) -> Self {
        let mut random = draw(seed, &[8 << 32]);
        let sites = random.u16(2..=3);
        let vantages = random.u16(1..=4);
        let mut world = Self {
            sites,
            vantages,
            engines: sites,
            controls: sites + random.u16(0..=sites) * u16::from(random.bool()),
            readers: sites + random.u16(0..=1),
            canaries: (0..vantages).map(|_| if random.f64() < 0.7 { random.u16(1..=3) } else { 0 }).collect(),
            engine_of: BTreeMap::new(),
            documents: String::new(),
            domains: Vec::new(),
            faults: Vec::new(),
            over: if random.f64() < 0.8 { 50_000 } else { 110_000 },
            clocks: BTreeMap::new(),
            wall_spread: if random.f64() < 0.6 { 1_500 } else { 3_600_000 },
            connected: true,
        };
        for n in 0..world.controls {
            world.engine_of.insert(Self::control(n), Self::engine(n % sites));
        }
        for n in 0..world.readers {
            world.engine_of.insert(Self::reader(n), Self::engine(n % sites));
        }
        world.draw_clocks(&mut random);
        world.write_documents(&mut random);
        let quiet = random.f64() < 0.3;
        let faults = Faults { world: &world, random: &mut random, events: Vec::new() };
        world.faults = SiteFaults { faults, orders: 0, quiet }.draw();
        world
    }
}

/// A domain that shows which apply was the last: by its TTL.
pub fn mark(number: u16) -> String {
    format!("kind: Domain\nname: mark.example.com\ncluster: main\nttl: {}s\n", 1_000 + number)
}

fn sha256(text: &str) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(text).iter().map(|it| format!("{it:02x}")).collect()
}

/// Draws the faults of connected sites.
struct SiteFaults<'a> {
    faults: Faults<'a>,
    /// Counts what operators order.
    orders: u16,
    /// No process dies: sites are cut off, and targets die.
    quiet: bool,
}

impl SiteFaults<'_> {
    fn draw(mut self) -> Vec<(u64, Event)> {
        let over = self.faults.world.over;
        for n in 0..self.faults.world.sites * INSTANCES {
            self.at(50, Between::Instance(n, true));
        }
        for n in 0..self.faults.world.sites {
            let at = self.faults.random.u64(FAULTS_FROM..over);
            self.at(at, Between::BackUp(World::engine(n)));
        }
        for _ in 0..self.faults.random.u64(over / 7_000..=over / 3_000) {
            let from = self.faults.random.u64(FAULTS_FROM..over - 1_000);
            let until = (from + self.faults.random.u64(1_000..20_000)).min(over);
            self.fault(from, until);
        }
        for _ in 0..self.faults.random.u64(2..=over / 5_000) {
            let at = self.faults.random.u64(FAULTS_FROM..over);
            self.order(at);
        }
        self.faults.end()
    }

    fn at(&mut self, at: u64, what: Between) {
        self.faults.events.push((at, Event::Between(what)));
    }

    fn number(&mut self, below: u16) -> u16 {
        self.faults.random.u16(0..below)
    }

    fn control(&mut self) -> Id {
        let controls = self.faults.world.controls;
        World::control(self.number(controls))
    }

    fn fault(&mut self, from: u64, until: u64) {
        let kinds = if self.quiet { 9 } else { 20 };
        match self.faults.random.u8(0..kinds) {
            0..=3 => {
                let (site, how) = (self.faults.site(), self.faults.how());
                self.faults.between(from, Event::Dies(site, how), until, Event::Serves(site));
            }
            4..=8 => self.cut(from, until),
            9..=10 => {
                let (a, b) = (self.control(), self.control());
                let millis = self.faults.random.u64(50..1_200);
                self.faults.between(from, Event::Slow(a, b, millis), until, Event::Heal(a, b));
            }
            11 => {
                let (a, b) = (self.control(), self.control());
                let share = self.faults.random.f64() * 0.5;
                self.faults.between(from, Event::Lossy(a, b, share), until, Event::Heal(a, b));
            }
            12 => self.faults.uplink(from, until),
            13..=15 => {
                let nodes = self.faults.world.nodes();
                let (node, how) = (self.faults.one_of(&nodes), self.faults.how());
                let disk = node.0 < 10 || self.faults.random.f64() < 0.7;
                self.faults.between(from, Event::Crash(node, how), until, Event::Restart { node, disk });
            }
            16..=17 => self.dark(from, until),
            18 => {
                let engines = self.faults.world.engines;
                let engine = World::engine(self.number(engines));
                self.faults.events.push((until, Event::RollBack(engine)));
            }
            _ => {
                let sites = self.faults.world.sites;
                let n = self.number(sites * INSTANCES);
                self.at(from, Between::Instance(n, false));
                self.at(until, Between::Instance(n, true));
            }
        }
    }

    /// One site is cut off from another, or from all others. Meanwhile another site may be promoted.
    fn cut(&mut self, from: u64, until: u64) {
        let sites = self.faults.world.sites;
        let site = self.number(sites);
        let one = (site + 1 + self.number(sites - 1)) % sites;
        let others: Vec<u16> = match self.faults.random.bool() {
            true => (0..sites).filter(|it| *it != site).collect(),
            false => vec![one],
        };
        let way = match self.faults.random.u8(0..4) {
            0 => Way::Forth,
            _ => Way::Both(self.faults.how()),
        };
        let swap = self.faults.random.bool();
        for other in others {
            let (a, b) = if swap { (other, site) } else { (site, other) };
            self.at(from, Between::Cut(a, b, way));
            self.at(until, Between::Heal(a, b));
        }
        for at in [site, one] {
            for _ in 0..self.faults.random.u8(0..=1) {
                let when = self.faults.random.u64(from..until);
                self.order_at(when, Some(at));
            }
            if self.faults.random.f64() < 0.3 {
                let when = self.faults.random.u64(from..until);
                let act = Act::Promote { force: self.faults.random.f64() < 0.3 };
                self.give(when, Some(at), act);
            }
        }
    }

    /// Every process of a site dies.
    fn dark(&mut self, from: u64, until: u64) {
        let sites = self.faults.world.sites;
        let (site, how) = (self.number(sites), self.faults.how());
        let nodes = self.faults.world.nodes();
        for node in nodes.into_iter().filter(|it| self.faults.world.site_of(*it) == Some(site)) {
            let back = Event::Restart { node, disk: true };
            self.faults.events.push((from, Event::Crash(node, how)));
            self.faults.events.push((until, back));
        }
        let target = World::site(site);
        self.faults.between(from, Event::Dies(target, how), until, Event::Serves(target));
        let (when, other) = (self.faults.random.u64(from..until), (site + 1) % sites);
        self.order_at(when, Some(other));
    }

    fn order(&mut self, at: u64) {
        if self.faults.random.f64() < 0.05 {
            let (control, sites) = (self.control(), self.faults.world.sites);
            let secret = self.number(sites);
            let shown = (secret + 1) % sites;
            self.at(at, Between::Impostor { control, secret, shown });
        } else {
            self.order_at(at, None);
        }
    }

    fn order_at(&mut self, at: u64, site: Option<u16>) {
        let by = if self.faults.random.f64() < 0.6 { Authority::Human } else { Authority::Tool };
        let name = format!("o{}", self.number(4));
        let act = match self.faults.random.u8(0..10) {
            0..=3 => {
                let site = self.faults.site().0 - 40;
                let state = ["up", "down", "drain"][usize::from(self.number(3))];
                Act::Override { name, site, state, by, expires: self.expires(), reason: self.orders }
            }
            4..=5 => Act::Release { name, by },
            6 => {
                let domains = self.faults.world.domains.len() as u16;
                let domain = self.faults.world.domains[usize::from(self.number(domains))].clone();
                Act::Switch { domain, by }
            }
            7 => {
                let sites = self.faults.world.sites;
                let instance = self.number(sites * INSTANCES);
                // It is registered anew when it has started again.
                let again = self.faults.world.over;
                self.at(again, Between::Instance(instance, true));
                let own = World::site_of_instance(instance);
                return self.give(at, Some(own), Act::Drain { instance });
            }
            _ => Act::Apply { mark: self.orders },
        };
        self.give(at, site, act);
    }

    /// When an override ends, if it does, in milliseconds of its control's clock from its order on.
    fn expires(&mut self) -> Option<u64> {
        let alike = self.faults.world.wall_spread < 10_000;
        (alike && self.faults.random.f64() < 0.2).then(|| self.faults.random.u64(2_000..20_000))
    }

    fn give(&mut self, at: u64, site: Option<u16>, act: Act) {
        self.orders += 1;
        let act = match act {
            Act::Override { name, site, state, by, expires, .. } => {
                Act::Override { name, site, state, by, expires, reason: self.orders }
            }
            Act::Apply { .. } => Act::Apply { mark: self.orders },
            act => act,
        };
        let control = match site {
            Some(site) => {
                let controls = self.faults.world.controls_of(site);
                self.faults.one_of(&controls)
            }
            None => self.control(),
        };
        self.at(at, Between::Order(control, act));
    }
}
