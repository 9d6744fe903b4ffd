//! How components show their counters: plain structs of atomics, read when somebody asks.
//!
//! A component counts with relaxed increments on its own fields, so hot paths hash no labels. The binary walks
//! every [`Source`] when Prometheus scrapes or OTLP exports, and both see the same numbers.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Dotted, starting with `waypost.`; Prometheus shows dots as underscores and counters with `_total`.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// UCUM unit (`s`, `By`, `{query}`); empty for none.
    pub unit: &'static str,
    /// Whether it only grows.
    pub kind: Kind,
}

/// Whether a metric only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Descriptor {
    /// A counter.
    #[must_use]
    pub const fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Self {
        Self { name, help, unit, kind: Kind::Counter }
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Self {
        Self { name, help, unit, kind: Kind::Gauge }
    }
}

/// One value of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Which metric.
    pub metric: &'static Descriptor,
    /// Label names and values; few, and bounded by configuration.
    pub labels: &'a [(&'static str, &'a str)],
    /// The value.
    pub value: f64,
}

/// Something that has metrics.
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// Every metric it may emit.
    fn descriptors(&self) -> &'static [Descriptor];

    /// Emits the present value of each.
    fn collect(&self, emit: &mut dyn FnMut(Sample<'_>));
}

/// A number many threads add to.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Takes one away; for gauges.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Replaces the value; for gauges.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// As a sample's value: exact up to 2^53.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counters stay below 2^53")]
    pub fn value(&self) -> f64 {
        self.get() as f64
    }
}
