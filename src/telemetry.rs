//! Logs and metrics. Components count in their own atomics ([`store::metrics::Source`]); here each source is collected
//! once per scrape (`prometheus`) and once per export (`otlp`), so both show the same numbers, and hot paths
//! depend on neither.

pub mod log;
mod otlp;
mod prometheus;

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use store::metrics::Source;

use otlp::Exporter;

/// A node's metrics.
#[derive(Debug)]
pub struct Metrics {
    sources: Vec<Arc<dyn Source>>,
    resource: Resource,
    exporter: Option<Exporter>,
}

/// Why metrics cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("[telemetry]: {0}")]
pub struct TelemetryError(String);

impl Metrics {
    /// Shows these sources, and exports them to a collector if there is one. Needs a tokio runtime for that.
    ///
    /// # Errors
    /// When the exporter cannot be made; a collector that is away is no error.
    pub fn new(
        node: &str,
        sources: Vec<Arc<dyn Source>>,
        otlp: Option<&str>,
    ) -> Result<Self, TelemetryError> {
        let resource = Resource::builder()
            .with_service_name("waypost")
            .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let exporter =
            otlp.map(|collector| Exporter::start(collector, resource.clone(), &sources)).transpose()?;
        Ok(Self { sources, resource, exporter })
    }

    /// In Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> String {
        prometheus::text(&self.resource, &self.sources)
    }

    /// Exports what was counted last. Blocks for at most a second.
    pub fn close(&self) {
        if let Some(exporter) = &self.exporter {
            exporter.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use store::metrics::{Count, Kind, Sample};

    use super::*;

    const SIDES: [&str; 2] = ["left", "right"];

    store::metrics! {
        struct Doors {
            doors: counter("waypost.test.doors", "{door}", "Doors.");
            open["side" = SIDES]: gauge("waypost.test.open", "", "Open ones, by side.");
        }
        computed {
            COLLECTED: gauge("waypost.test.collected", "s", "How often this was collected.");
        }
    }

    static COLLECTIONS: Count = Count::new();

    impl Doors {
        fn compute(&self, emit: &mut dyn FnMut(Sample<'_>)) {
            COLLECTIONS.increment();
            emit(Sample { metric: &COLLECTED, labels: &[], value: COLLECTIONS.value() });
        }
    }

    /// What every role may emit, as the page for operators.
    async fn documented() -> String {
        let folder = tempfile::tempdir().unwrap();
        let engine = store::engine::embedded::Embedded::in_memory(Default::default()).await;
        let identity = store::follow::Identity {
            node: "n".into(),
            site: "s".into(),
            roles: Default::default(),
            boot: "b".into(),
        };
        let options = store::follow::Options::default();
        let (_, follower) = store::follow::start(engine, folder.path(), identity, options).await.unwrap();
        let prober = prober::Config::new("v".parse().unwrap(), vec!["http://127.0.0.1:1".to_owned()]);
        let sources: Vec<(&str, Arc<dyn Source>)> = vec![
            ("Every node", log::metrics()),
            ("Every node", Arc::new(crate::reread::RereadMetrics::default())),
            ("Every node with an engine", follower.metrics()),
            ("`dns`", Arc::new(dns::Metrics::default())),
            ("`dns` with `zones_dir`", Arc::new(dns::zones_dir::ZonesDir::open(folder.path()).unwrap().0)),
            ("`[store] dns`", Arc::new(dns::registry::RegistryMetrics::default())),
            ("`proxy`", Arc::new(proxy::Metrics::default())),
            ("`prober`", prober::start(prober, "b".into()).unwrap().metrics()),
            ("`control`", Arc::new(crate::control::Metrics::default())),
            ("`control`", Arc::new(crate::sites::PeerMetrics::default())),
            ("`control`", Arc::new(store::remote::RemoteMetrics::default())),
        ];
        let mut page = include_str!("telemetry/metrics_head.md").to_owned();
        let mut above = "";
        for (role, source) in sources {
            if role != above {
                page.push_str(&format!(
                    "\n## {role}\n\n| Name (OTLP) | Kind | Unit | What it counts |\n|---|---|---|---|\n"
                ));
            }
            above = role;
            for descriptor in source.descriptors() {
                let kind = match descriptor.kind {
                    Kind::Counter => "counter",
                    Kind::Gauge => "gauge",
                };
                page.push_str(&format!(
                    "| `{}` | {kind} | {} | {} |\n",
                    descriptor.name, descriptor.unit, descriptor.help
                ));
            }
        }
        page
    }

    #[tokio::test]
    async fn the_page_of_metrics_is_true() {
        let page = documented().await;
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/METRICS.md");
        if std::env::var_os("WAYPOST_WRITE_DOCS").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(there, page, "run this test with WAYPOST_WRITE_DOCS=1 to write {}", path.display());
    }

    #[tokio::test]
    async fn names_are_ours_and_stand_once() {
        let page = documented().await;
        let mut names: Vec<_> =
            page.lines().filter_map(|it| it.strip_prefix("| `")?.split('`').next()).collect();
        assert!(names.len() > 40 && names.iter().all(|it| it.starts_with("waypost.")), "{names:?}");
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "duplicate name");
    }

    /// A collector that only listens: an exporter sends its metrics without waiting for an answer.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_gets_the_same_numbers() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = format!("http://{}", listener.local_addr().unwrap());
        let doors = Arc::new(Doors::default());
        doors.doors.add(3);
        let metrics = Arc::new(Metrics::new("node-7", vec![doors], Some(&collector)).unwrap());
        let received = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // An empty SETTINGS frame, which a server begins with (RFC 9113 §3.4).
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
            let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|it| it == text.as_bytes());
            while !(has(&bytes, "waypost.test.doors") && has(&bytes, "node-7")) {
                let read = stream.read(&mut piece).await.unwrap();
                assert!(read > 0, "the exporter left without saying it");
                bytes.extend_from_slice(&piece[..read]);
            }
        });
        let closing = tokio::task::spawn_blocking(move || metrics.close());
        tokio::time::timeout(Duration::from_secs(20), received).await.unwrap().unwrap();
        closing.await.unwrap();
    }

    #[test]
    fn prometheus_sees_what_was_counted() {
        let doors = Arc::new(Doors::default());
        let metrics = Metrics::new("n", vec![doors.clone()], None).unwrap();
        doors.doors.add(3);
        doors.open[0].set(1);
        let text = metrics.text();
        assert!(text.contains("waypost_test_doors_total 3"), "{text}");
        assert!(text.contains("waypost_test_open{side=\"left\"} 1"), "{text}");
        doors.doors.increment();
        assert!(metrics.text().contains("waypost_test_doors_total 4"));
    }

    #[test]
    fn a_scrape_collects_each_source_once() {
        let metrics = Metrics::new("n", vec![Arc::new(Doors::default())], None).unwrap();
        let collected = |text: &str| {
            let line = text.lines().find_map(|it| it.strip_prefix("waypost_test_collected_seconds "));
            line.unwrap().parse::<u64>().unwrap()
        };
        let (first, second) = (collected(&metrics.text()), collected(&metrics.text()));
        assert!(first < second, "{first} {second}");
        assert!(metrics.text().starts_with("# HELP target_info Target metadata\n# TYPE target_info gauge\n"));
    }
}
