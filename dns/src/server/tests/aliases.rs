//! ALIAS to a name that another server answers for, through a real resolver.

use store::{
    model::{self, Generation, Moment, Placed},
    snapshot::Snapshot,
};

use super::*;

fn snapshot(documents: &str, on: &store::board::Board) -> Arc<Snapshot> {
    let documents = model::parse("alias.yaml", documents).unwrap();
    let placed = documents.into_iter().map(|it| Placed { value: Arc::new(it.value), place: it.place });
    let world = model::World::check(placed, Moment(0)).unwrap();
    Arc::new(Snapshot::compile(world.sources(), Generation::new(1, 1), on))
}

fn start_with(config: Config, documents: &str) -> Running {
    let running = start(config, false);
    publish(&running, documents);
    running
}

fn publish(running: &Running, documents: &str) {
    running.publisher.publish_snapshot(snapshot(documents, running.publisher.handle().board()));
}

const HEAD: &str = "nameservers: [{ name: ns1, a: [192.0.2.53] }]\nrecords:\n";

fn upstream(address: &str) -> String {
    format!("kind: Zone\nname: other.test\n{HEAD}  - {{ name: x, type: A, data: {address}, ttl: 1s }}\n")
}

/// The address of the apex, as soon as it is not `before`.
async fn address(of: SocketAddr, before: &str) -> String {
    let asking = async {
        loop {
            let reply = over_udp(of, &query("our.test.", WireType::A, None)).await;
            let found = reply.answers.first().map(|it| it.data.to_string()).unwrap_or_default();
            if found != before {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asking).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_targets_addresses_are_followed_and_stay_when_no_server_answers() {
    let theirs = start_with(config(), &upstream("198.51.100.7"));
    let ours = format!(
        "kind: Zone\nname: our.test\n{HEAD}  - {{ name: '@', type: ALIAS, data: x.other.test. }}\n  \
         - {{ name: '@', type: MX, data: 10 mail.other.test. }}\n  - {{ name: gone, type: ALIAS, data: no.other.test. }}\n"
    );
    let running = start_with(Config { resolvers: vec![theirs.address], ..config() }, &ours);
    assert_eq!(address(running.address, "").await, "198.51.100.7");
    let gone = async {
        let packet = query("gone.our.test.", WireType::A, None);
        let ask = || over_udp(running.address, &packet);
        while ask().await.metadata.response_code != hickory_proto::op::ResponseCode::NoError {}
        ask().await
    };
    let gone = timeout(PATIENCE, gone).await.unwrap();
    assert_eq!((gone.answers.len(), gone.authorities.len()), (0, 1), "its target does not exist");
    publish(&theirs, &upstream("198.51.100.8"));
    assert_eq!(address(running.address, "198.51.100.7").await, "198.51.100.8");
    theirs.stop.send_replace(true);
    timeout(PATIENCE, theirs.task).await.unwrap().unwrap().unwrap();
    let failed = async {
        let text = |running: &Running| {
            use store::metrics::Source as _;
            let mut failed = 0.0;
            running.metrics.collect(&mut |sample| {
                if sample.labels.contains(&("outcome", "failed")) {
                    failed = sample.value;
                }
            });
            failed
        };
        while text(&running) < 1.0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE * 3, failed).await.unwrap();
    assert_eq!(address(running.address, "").await, "198.51.100.8");
}
