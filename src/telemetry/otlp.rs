//! Metrics to an OpenTelemetry collector, over gRPC.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Meter, MeterProvider as _},
};
use opentelemetry_otlp::{MetricExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider},
};
use store::metrics::{Descriptor, Kind, Source};

use super::TelemetryError;

/// How often metrics are exported.
const EXPORT_EVERY: Duration = Duration::from_secs(10);

/// Exports metrics for as long as it lives.
#[derive(Debug)]
pub(super) struct Exporter(SdkMeterProvider);

impl Exporter {
    /// Exports these sources to a collector.
    pub(super) fn start(
        collector: &str,
        resource: Resource,
        sources: &[Arc<dyn Source>],
    ) -> Result<Self, TelemetryError> {
        let exporter = MetricExporter::builder().with_tonic().with_endpoint(collector).build();
        let exporter = exporter.map_err(|error| TelemetryError(error.to_string()))?;
        let reader = PeriodicReader::builder(exporter).with_interval(EXPORT_EVERY).build();
        let provider = SdkMeterProvider::builder().with_resource(resource).with_reader(reader).build();
        let meter = provider.meter("waypost");
        for source in sources {
            let collection = Arc::new(Collection { source: Arc::clone(source), left: Mutex::default() });
            for descriptor in source.descriptors() {
                observe(&meter, descriptor, Arc::clone(&collection));
            }
        }
        Ok(Self(provider))
    }

    /// Exports what was counted last. Blocks for at most a second.
    pub(super) fn close(&self) {
        if let Err(error) = self.0.shutdown_with_timeout(Duration::from_secs(1)) {
            tracing::debug!(%error, "the last metrics were not exported");
        }
    }
}

/// The samples of one metric.
type Samples = Vec<(f64, Vec<KeyValue>)>;

/// The samples of one source, collected once for all of its metrics.
///
/// The SDK reads each metric by itself, once per export. So the first metric that is read collects the whole source, the
/// others take what was collected for them, and a metric that finds nothing of its own begins the next collection.
#[derive(Debug)]
struct Collection {
    source: Arc<dyn Source>,
    left: Mutex<BTreeMap<&'static str, Samples>>,
}

impl Collection {
    fn take(&self, metric: &'static str) -> Samples {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(samples) = left.remove(metric) {
            return samples;
        }
        *left = self.source.descriptors().iter().map(|it| (it.name, Samples::new())).collect();
        self.source.collect(&mut |sample| {
            let label = |(name, value): &(&'static str, &str)| KeyValue::new(*name, (*value).to_owned());
            let labels = sample.labels.iter().map(label).collect();
            left.entry(sample.metric.name).or_default().push((sample.value, labels));
        });
        left.remove(metric).unwrap_or_default()
    }
}

fn observe(meter: &Meter, descriptor: &'static Descriptor, collection: Arc<Collection>) {
    let (name, unit, help) = (descriptor.name, descriptor.unit, descriptor.help);
    let each = move |observe: &dyn Fn(f64, &[KeyValue])| {
        for (value, labels) in collection.take(name) {
            observe(value, &labels);
        }
    };
    // The provider keeps the instrument with its callback.
    match descriptor.kind {
        Kind::Counter => drop(
            meter
                .f64_observable_counter(name)
                .with_unit(unit)
                .with_description(help)
                .with_callback(move |observer| each(&|value, labels| observer.observe(value, labels)))
                .build(),
        ),
        Kind::Gauge => drop(
            meter
                .f64_observable_gauge(name)
                .with_unit(unit)
                .with_description(help)
                .with_callback(move |observer| each(&|value, labels| observer.observe(value, labels)))
                .build(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use store::metrics::Sample;

    use super::*;

    store::metrics! {
        struct Clock {
            collections: counter("waypost.test.collections", "", "How often this was collected.");
        }
        computed {
            HANDS: gauge("waypost.test.hands", "", "Where the hands are.");
        }
    }

    impl Clock {
        fn compute(&self, emit: &mut dyn FnMut(Sample<'_>)) {
            self.collections.increment();
            for hand in ["hour", "minute"] {
                emit(Sample { metric: &HANDS, labels: &[("hand", hand)], value: self.collections.value() });
            }
        }
    }

    #[test]
    fn a_source_is_collected_once_for_all_of_its_metrics() {
        let clock = Arc::new(Clock::default());
        let collection = Collection { source: clock.clone(), left: Mutex::default() };
        for export in 1..=3_u64 {
            for metric in ["waypost.test.collections", "waypost.test.hands"] {
                let samples = collection.take(metric);
                assert_eq!(samples.len(), 1 + usize::from(metric.ends_with("hands")));
            }
            assert_eq!(clock.collections.get(), export);
        }
    }
}
