//! Instances of other sites: chosen when the own site has none, and reached as the site's document says.

use store::{
    engine::{CheckStatus, Endpoint},
    model::{Reach, Sources},
};

use super::{
    instances::Instance,
    world::{World, alone, config},
};
use crate::{
    Listener,
    testing::{name, sources},
};

/// The gateway of [`World`] is at `s1`. Its document says how it reaches `s0`, whose gateways are at 127.0.0.1.
fn reaching(reach: Reach) -> Sources {
    let mut sources = sources();
    let ours = sources.sites.iter_mut().find(|it| it.name == name("s1")).unwrap();
    ours.reach.insert(name("s0"), reach);
    let theirs = sources.clusters[0].gateways.get_mut(&name("s0")).unwrap();
    theirs.a = vec![[127, 0, 0, 1].into()];
    sources
}

fn critical(endpoint: &Endpoint) -> Endpoint {
    Endpoint { status: CheckStatus::Critical, ..endpoint.clone() }
}

/// Waits until a request is answered with this status: the table that a new port needs is compiled in the background.
async fn answers(world: &World, status: u16) {
    for _ in 0..1_000 {
        if world.get("/").await.0 == status {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("not answered with {status} within ten seconds");
}

#[tokio::test]
async fn an_instance_of_another_site_serves_when_the_own_site_has_none() {
    let (ours, theirs) = (Instance::new("ours").await, Instance::new("theirs").await);
    let world = World::start(alone(|_| {}), std::slice::from_ref(&ours.endpoint)).await;
    world.discover_away("web", "s0", std::slice::from_ref(&theirs.endpoint));
    assert_eq!(world.get("/").await, (200, "ours".into()));
    world.discover("web", &[critical(&ours.endpoint)]);
    assert_eq!(world.get("/").await, (200, "theirs".into()));
    let status = world.proxy.status();
    let used = status.instances.iter().find(|it| it.id == "theirs").unwrap();
    assert_eq!(used.site.as_deref(), Some("s0"), "the site is that which tells of it");
    world.discover("web", std::slice::from_ref(&ours.endpoint));
    assert_eq!(world.get("/").await, (200, "ours".into()));
}

#[tokio::test]
async fn a_site_whose_instances_are_all_killed_fails_no_request() {
    let theirs = Instance::new("theirs").await;
    let mut ours = Vec::new();
    for number in 0..6 {
        ours.push(Instance::new(&format!("ours-{number}")).await);
    }
    let endpoints: Vec<_> = ours.iter().map(|it| it.endpoint.clone()).collect();
    let world = World::start(alone(|_| {}), &endpoints).await;
    world.discover_away("web", "s0", std::slice::from_ref(&theirs.endpoint));
    let mut client = world.client().await;
    let post = "POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 5\r\n\r\nhello";
    for _ in 0..30 {
        assert!(client.ask(post).await.text().starts_with("ours"));
    }
    for instance in ours {
        instance.kill().await;
    }
    for number in 0..100 {
        let answer = client.ask(post).await;
        assert_eq!((answer.status, answer.text()), (200, "theirs".to_owned()), "request {number}");
    }
    assert_eq!((world.metrics().downs.get(), world.metrics().ejections.get()), (6, 0));
}

#[tokio::test]
async fn an_instance_in_both_registries_is_used_as_the_own_one_says() {
    let both = Instance::new("both").await;
    let world = World::start(alone(|_| {}), &[critical(&both.endpoint)]).await;
    world.discover_away("web", "s0", std::slice::from_ref(&both.endpoint));
    assert_eq!(world.get("/").await.0, 503);
    world.discover("web", &[]);
    assert_eq!(world.get("/").await, (200, "both".into()));
}

#[tokio::test]
async fn a_site_that_is_reached_by_its_gateways_gets_requests_through_them() {
    let theirs = Instance::new("theirs").await;
    let there = crate::Config { site: name("s0"), node: "gw-0".into(), ..config() };
    let there =
        World::start_with(there, reaching(Reach::Direct), std::slice::from_ref(&theirs.endpoint)).await;
    let world = World::start_with(alone(|_| {}), reaching(Reach::ByGateway), &[]).await;
    // An address that this site cannot reach.
    let hidden = Endpoint { address: "192.0.2.1".into(), ..theirs.endpoint.clone() };
    world.discover_away("web", "s0", std::slice::from_ref(&hidden));
    world.gateways("s0", there.address().port());
    answers(&world, 200).await;
    assert_eq!(world.get("/").await, (200, "theirs".into()));
    let head = theirs.last().head;
    assert_eq!(head.headers["waypost-hops"], "2", "both gateways are counted");
    let via: Vec<_> = head.headers.get_all("via").iter().map(|it| it.to_str().unwrap()).collect();
    assert_eq!(via, ["1.1 gw-1", "1.1 gw-0"]);
    let ids: Vec<_> = world.proxy.status().instances.into_iter().map(|it| it.id).collect();
    assert_eq!(ids, [format!("gateway {}", there.address())], "its instances are not dialled");
    // Without an instance that serves there, nothing is sent there.
    world.discover_away("web", "s0", &[critical(&hidden)]);
    assert_eq!(world.get("/").await.0, 503);
    // The gateway there listens at another port, where nothing answers.
    world.discover_away("web", "s0", &[hidden]);
    world.gateways("s0", crate::testing::unused_port());
    answers(&world, 502).await;
}

#[tokio::test]
async fn gateways_of_other_sites_learn_only_of_ports_that_take_their_requests() {
    let at = || "127.0.0.1:0".parse().unwrap();
    let plain = Listener::plain(at());
    let special = [
        Listener::tls(at()),
        Listener { proxy_protocol: true, ..plain.clone() },
        Listener { redirect_to_https: Some(443), ..plain.clone() },
    ];
    for all in [[special.as_slice(), &[plain]].concat(), special.to_vec()] {
        let config = crate::Config { listeners: all, ..alone(|_| {}) };
        let (handle, _publisher) =
            store::handle::channel(store::Clock::default(), std::time::Duration::from_secs(60));
        let proxy = crate::bind(config, handle.clone()).unwrap();
        let open: Vec<u16> = proxy.local_addrs().iter().skip(3).map(|it| it.port()).collect();
        let running = tokio::spawn(proxy.run());
        crate::testing::eventually("it says where it listens", || handle.listening().is_some()).await;
        assert_eq!(handle.listening().unwrap().ports, open);
        running.abort();
    }
}

#[tokio::test]
async fn a_site_whose_gateways_take_no_plain_requests_is_not_reached_through_them() {
    let theirs = Instance::new("theirs").await;
    let world = World::start_with(alone(|_| {}), reaching(Reach::ByGateway), &[]).await;
    world.discover_away("web", "s0", std::slice::from_ref(&theirs.endpoint));
    // While nothing is known of them, the ports are taken to be those of this gateway, which finds itself.
    answers(&world, 508).await;
    world.publisher.publish_gateways([(name("s0"), [(name("main"), vec![])].into())].into());
    answers(&world, 503).await;
}

#[tokio::test]
async fn two_sites_that_each_think_the_other_has_an_instance_stop_after_some_hops() {
    let mut ours = reaching(Reach::ByGateway);
    let other = ours.sites.iter_mut().find(|it| it.name == name("s0")).unwrap();
    other.reach.insert(name("s1"), Reach::ByGateway);
    ours.clusters[0].gateways.get_mut(&name("s1")).unwrap().a = vec![[127, 0, 0, 1].into()];
    let nowhere = store::testing::endpoint("web", "web-1");
    let there = crate::Config { site: name("s0"), node: "gw-0".into(), ..config() };
    let there = World::start_with(there, ours.clone(), &[]).await;
    let world = World::start_with(config(), ours, &[]).await;
    world.discover_away("web", "s0", std::slice::from_ref(&nowhere));
    there.discover_away("web", "s1", std::slice::from_ref(&nowhere));
    world.gateways("s0", there.address().port());
    there.gateways("s1", world.address().port());
    let looped = |world: &World| world.metrics().loops.get();
    answers(&world, 508).await;
    assert!(looped(&world) + looped(&there) >= 1);
}

#[tokio::test]
async fn a_site_that_is_not_reached_gets_no_requests() {
    let theirs = Instance::new("theirs").await;
    let world = World::start_with(alone(|_| {}), reaching(Reach::Never), &[]).await;
    world.discover_away("web", "s0", std::slice::from_ref(&theirs.endpoint));
    assert_eq!(world.get("/").await.0, 503);
    // Other sites are.
    world.discover_away("web", "s2", std::slice::from_ref(&theirs.endpoint));
    assert_eq!(world.get("/").await.0, 503, "one instance is in one site only, the first");
    world.discover_away("web", "s0", &[]);
    assert_eq!(world.get("/").await, (200, "theirs".into()));
}
