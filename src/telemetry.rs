//! Logs and metrics. Components count in their own atomics ([`store::metrics::Source`]); here those are read when
//! Prometheus scrapes or the OTLP exporter's time comes, so both show the same numbers and hot paths know neither.

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

/// Sends logs to standard error: short lines on a terminal, the same without colours in a file.
pub fn log(directives: &str) {
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(directives);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ansi)
        .with_writer(std::io::stderr)
        .finish();
    // A second start in one process (a test) keeps the first.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

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
