//! Metrics in Prometheus' text format.
//!
//! Names follow OpenTelemetry's rules for Prometheus: dots become underscores, a unit is written out behind the name, and
//! counters end in `_total`.

use std::{collections::BTreeMap, sync::Arc};

use ::prometheus::{
    Encoder as _, TextEncoder,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};
use opentelemetry_sdk::Resource;
use store::metrics::{Descriptor, Kind, Sample, Source};

/// The page that is scraped: each source is collected once.
pub(super) fn text(resource: &Resource, sources: &[Arc<dyn Source>]) -> String {
    let mut families = BTreeMap::new();
    families.insert("target_info".to_owned(), target_info(resource));
    for source in sources {
        source.collect(&mut |sample| {
            let name = name(sample.metric);
            let family = families.entry(name).or_insert_with_key(|name| family(name, sample.metric));
            family.mut_metric().push(metric(&sample));
        });
    }
    let mut families: Vec<_> = families.into_values().collect();
    for family in &mut families {
        let values = |it: &Metric| it.get_label().iter().map(|it| it.value().to_owned()).collect::<Vec<_>>();
        family.mut_metric().sort_by_cached_key(values);
    }
    let mut text = Vec::new();
    // Writing to memory cannot fail, and a family exists only with a metric in it.
    let _ = TextEncoder::new().encode(&families, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The name of a metric in Prometheus.
fn name(metric: &Descriptor) -> String {
    let mut name = metric.name.replace('.', "_");
    if let Some(unit) = unit(metric.unit) {
        name.push('_');
        name.push_str(unit);
    }
    if metric.kind == Kind::Counter {
        name.push_str("_total");
    }
    name
}

/// A unit written out. Annotations, such as `{query}`, are not part of a name.
fn unit(unit: &str) -> Option<&'static str> {
    match unit {
        "s" => Some("seconds"),
        "By" => Some("bytes"),
        _ => None,
    }
}

fn family(name: &str, metric: &Descriptor) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
    });
    family
}

fn metric(sample: &Sample<'_>) -> Metric {
    let mut labels: Vec<_> = sample.labels.iter().map(|(name, value)| label(name, value)).collect();
    labels.sort_by(|a, b| a.name().cmp(b.name()));
    let mut metric = Metric::from_label(labels);
    match sample.metric.kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(sample.value);
            metric.set_counter(counter);
        }
        Kind::Gauge => metric.set_gauge(gauge(sample.value)),
    }
    metric
}

/// What the process is, as labels of a metric that is always 1.
fn target_info(resource: &Resource) -> MetricFamily {
    let mut labels: Vec<_> =
        resource.iter().map(|(key, value)| label(&key.as_str().replace('.', "_"), &value.as_str())).collect();
    labels.sort_by(|a, b| a.name().cmp(b.name()));
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge(1.0));
    let mut family = MetricFamily::default();
    family.set_name("target_info".to_owned());
    family.set_help("Target metadata".to_owned());
    family.set_field_type(MetricType::GAUGE);
    family.mut_metric().push(metric);
    family
}

fn gauge(value: f64) -> Gauge {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    gauge
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}
