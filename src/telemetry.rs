//! Logs and metrics. Components count in their own atomics ([`store::metrics::Source`]); here those are read when
//! Prometheus scrapes or the OTLP exporter's time comes, so both show the same numbers and hot paths know neither.

pub mod log;

use std::{sync::Arc, time::Duration};

use opentelemetry::{
    KeyValue,
    metrics::{Meter, MeterProvider as _},
};
use opentelemetry_otlp::{MetricExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider},
};
use prometheus::{Encoder as _, TextEncoder};
use store::metrics::{Descriptor, Kind, Source};

/// How often metrics are exported.
const EXPORT_EVERY: Duration = Duration::from_secs(10);

/// A node's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: prometheus::Registry,
    provider: SdkMeterProvider,
}

/// Why metrics cannot be had.
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
        let registry = prometheus::Registry::new();
        let fail = |error: &dyn std::fmt::Display| TelemetryError(error.to_string());
        let scraped = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()
            .map_err(|error| fail(&error))?;
        let resource = Resource::builder()
            .with_service_name("waypost")
            .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let mut provider = SdkMeterProvider::builder().with_resource(resource).with_reader(scraped);
        if let Some(collector) = otlp {
            let exporter = MetricExporter::builder().with_tonic().with_endpoint(collector).build();
            let exporter = exporter.map_err(|error| fail(&error))?;
            provider =
                provider.with_reader(PeriodicReader::builder(exporter).with_interval(EXPORT_EVERY).build());
        }
        let provider = provider.build();
        let meter = provider.meter("waypost");
        for source in sources {
            for descriptor in source.descriptors() {
                observe(&meter, descriptor, Arc::clone(&source));
            }
        }
        Ok(Self { registry, provider })
    }

    /// In Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory cannot fail, and what was gathered is consistent by construction.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Exports what was counted last. Blocks for at most a second.
    pub fn close(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(Duration::from_secs(1)) {
            tracing::debug!(%error, "the last metrics were not exported");
        }
    }
}

fn observe(meter: &Meter, descriptor: &'static Descriptor, source: Arc<dyn Source>) {
    let callback = move |emit: &mut dyn FnMut(f64, &[KeyValue])| {
        source.collect(&mut |sample| {
            if sample.metric.name == descriptor.name {
                let label = |(name, value): &(&'static str, &str)| KeyValue::new(*name, (*value).to_owned());
                let labels: Vec<KeyValue> = sample.labels.iter().map(label).collect();
                emit(sample.value, &labels);
            }
        });
    };
    let (name, unit, help) = (descriptor.name, descriptor.unit, descriptor.help);
    // The provider keeps the instrument with its callback.
    match descriptor.kind {
        Kind::Counter => drop(
            meter
                .f64_observable_counter(name)
                .with_unit(unit)
                .with_description(help)
                .with_callback(move |observer| callback(&mut |value, labels| observer.observe(value, labels)))
                .build(),
        ),
        Kind::Gauge => drop(
            meter
                .f64_observable_gauge(name)
                .with_unit(unit)
                .with_description(help)
                .with_callback(move |observer| callback(&mut |value, labels| observer.observe(value, labels)))
                .build(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use store::metrics::{Count, Sample};

    use super::*;

    #[derive(Debug, Default)]
    struct Doors(Count);

    static DOORS: [Descriptor; 2] = [
        Descriptor::counter("waypost.test.doors", "{door}", "Doors."),
        Descriptor::gauge("waypost.test.open", "", "Open ones, by side."),
    ];

    impl Source for Doors {
        fn descriptors(&self) -> &'static [Descriptor] {
            &DOORS
        }

        fn collect(&self, emit: &mut dyn FnMut(Sample<'_>)) {
            emit(Sample { metric: &DOORS[0], labels: &[], value: self.0.value() });
            for side in ["left", "right"] {
                emit(Sample { metric: &DOORS[1], labels: &[("side", side)], value: 1.0 });
            }
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
            for it in source.descriptors() {
                let kind = match it.kind {
                    Kind::Counter => "counter",
                    Kind::Gauge => "gauge",
                };
                page.push_str(&format!("| `{}` | {kind} | {} | {} |\n", it.name, it.unit, it.help));
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
        assert_eq!(names.len(), all, "a name stands twice");
    }

    /// A collector that only listens: whoever exports sends its metrics without waiting for an answer.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_gets_the_same_numbers() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = format!("http://{}", listener.local_addr().unwrap());
        let doors = Arc::new(Doors::default());
        doors.0.add(3);
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
        doors.0.add(3);
        let text = metrics.text();
        assert!(text.contains("waypost_test_doors_total 3"), "{text}");
        assert!(text.contains("waypost_test_open{side=\"left\"} 1"), "{text}");
        doors.0.increment();
        assert!(metrics.text().contains("waypost_test_doors_total 4"));
    }
}
