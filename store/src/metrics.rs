//! How components expose their metrics: structs of atomics, read when they are scraped or exported.
//!
//! A component counts with relaxed increments on its own fields, so hot paths hash no labels. The binary collects each
//! [`Source`] once per scrape or export. Sources are declared with [`metrics!`](crate::metrics!), which keeps the field,
//! the name, the unit and the description of a metric in one line.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// The name, kind and description of a metric.
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

/// A number that many threads add to.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Subtracts one; for gauges.
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

/// Declares the metrics of a component: a struct with one [`Count`] for each metric, and its [`Source`].
///
/// - `name: counter("waypost.…", "{unit}", "What it counts.");` is a metric without labels.
/// - `name["label" = VALUES]: …` has one series for each value of the label. `VALUES` is a constant array of texts, and the
///   field is an array of as many [`Count`]s in the same order.
/// - Metrics below `computed` are read from elsewhere: the macro declares the [`Descriptor`]s, and the component writes
///   `fn compute(&self, emit: &mut dyn FnMut(Sample<'_>))`, which emits their samples.
/// - Fields in parentheses behind the struct's name are what computed metrics need; the struct then has `new` with these
///   fields instead of `Default`.
///
/// ```
/// store::metrics! {
///     /// What the door counts.
///     pub struct Metrics {
///         pub opened: counter("waypost.door.opened", "{time}", "Times the door was opened.");
///         state["side" = SIDES]: gauge("waypost.door.open", "", "1 while that side is open.");
///     }
/// }
/// const SIDES: [&str; 2] = ["left", "right"];
///
/// let metrics = Metrics::default();
/// metrics.opened.increment();
/// metrics.state[1].set(1);
/// ```
#[macro_export]
macro_rules! metrics {
    (@field) => { $crate::metrics::Count };
    (@field $values:expr) => { [$crate::metrics::Count; $values.len()] };
    (@zero) => { $crate::metrics::Count::new() };
    // A default of an array ends at 32 values.
    (@zero $values:expr) => { [const { $crate::metrics::Count::new() }; $values.len()] };
    (@emit $emit:ident $metric:ident $count:expr) => {
        $emit($crate::metrics::Sample { metric: $metric, labels: &[], value: $count.value() });
    };
    (@emit $emit:ident $metric:ident $counts:expr, $label:literal $values:expr) => {
        for (value, count) in $values.iter().zip(&$counts) {
            let labels = &[($label, *value)];
            $emit($crate::metrics::Sample { metric: $metric, labels, value: count.value() });
        }
    };
    (@compute $this:ident $emit:ident) => {};
    (@compute $this:ident $emit:ident $($constant:ident)+) => { $this.compute($emit); };
    (
        $(#[$doc:meta])*
        $visibility:vis struct $name:ident {
            $($field_visibility:vis $field:ident $([$label:literal = $values:expr])?
                : $kind:ident($metric:literal, $unit:literal, $help:literal);)*
        }
        $(computed { $($constant:ident: $computed:ident($at:literal, $of:literal, $about:literal);)+ })?
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        $visibility struct $name {
            $(#[doc = $help] $field_visibility $field: $crate::metrics!(@field $($values)?),)*
        }
        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $crate::metrics!(@zero $($values)?),)* }
            }
        }
        $crate::metrics! {
            @source $name {
                $($field $([$label = $values])?: $kind($metric, $unit, $help);)*
            }
            { $($($constant: $computed($at, $of, $about);)+)? }
        }
    };
    (
        $(#[$doc:meta])*
        $visibility:vis struct $name:ident($($extra:ident: $extra_type:ty),+ $(,)?) {
            $($field_visibility:vis $field:ident $([$label:literal = $values:expr])?
                : $kind:ident($metric:literal, $unit:literal, $help:literal);)*
        }
        computed { $($constant:ident: $computed:ident($at:literal, $of:literal, $about:literal);)+ }
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        $visibility struct $name {
            $($extra: $extra_type,)+
            $(#[doc = $help] $field_visibility $field: $crate::metrics!(@field $($values)?),)*
        }
        impl $name {
            pub(crate) fn new($($extra: $extra_type),+) -> Self {
                Self { $($extra,)+ $($field: $crate::metrics!(@zero $($values)?),)* }
            }
        }
        $crate::metrics! {
            @source $name {
                $($field $([$label = $values])?: $kind($metric, $unit, $help);)*
            }
            { $($constant: $computed($at, $of, $about);)+ }
        }
    };
    (
        @source $name:ident {
            $($field:ident $([$label:literal = $values:expr])?
                : $kind:ident($metric:literal, $unit:literal, $help:literal);)*
        }
        { $($constant:ident: $computed:ident($at:literal, $of:literal, $about:literal);)* }
    ) => {
        $(static $constant: $crate::metrics::Descriptor =
            $crate::metrics::Descriptor::$computed($at, $of, $about);)*

        impl $name {
            const DESCRIPTORS: &[$crate::metrics::Descriptor] = &[
                $($crate::metrics::Descriptor::$kind($metric, $unit, $help),)*
                $($crate::metrics::Descriptor::$computed($at, $of, $about),)*
            ];
        }

        impl $crate::metrics::Source for $name {
            fn descriptors(&self) -> &'static [$crate::metrics::Descriptor] {
                Self::DESCRIPTORS
            }

            fn collect(&self, emit: &mut dyn FnMut($crate::metrics::Sample<'_>)) {
                let mut descriptors = Self::DESCRIPTORS.iter();
                $(if let Some(metric) = descriptors.next() {
                    $crate::metrics!(@emit emit metric self.$field $(, $label $values)?);
                })*
                let _ = descriptors;
                $crate::metrics!(@compute self emit $($constant)*);
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDES: [&str; 2] = ["left", "right"];

    crate::metrics! {
        /// What a door counts.
        struct Door(width: u32) {
            opened: counter("waypost.test.opened", "{time}", "Times it was opened.");
            open["side" = SIDES]: gauge("waypost.test.open", "", "1 while that side is open.");
        }
        computed {
            WIDTH: gauge("waypost.test.width", "m", "How wide it is.");
        }
    }

    impl Door {
        fn compute(&self, emit: &mut dyn FnMut(Sample<'_>)) {
            emit(Sample { metric: &WIDTH, labels: &[], value: self.width.into() });
        }
    }

    crate::metrics! {
        /// What a window counts.
        struct Window {
            broken: counter("waypost.test.broken", "{time}", "Times it broke.");
        }
    }

    fn shown(source: &dyn Source) -> Vec<String> {
        let mut shown = Vec::new();
        source.collect(&mut |sample| {
            assert!(source.descriptors().contains(sample.metric), "{sample:?}");
            shown.push(format!("{} {:?} {}", sample.metric.name, sample.labels, sample.value));
        });
        shown
    }

    #[test]
    fn every_declared_metric_is_described_and_emitted() {
        let door = Door::new(3);
        door.opened.add(2);
        door.open[1].set(1);
        let expected = [
            "waypost.test.opened [] 2",
            "waypost.test.open [(\"side\", \"left\")] 0",
            "waypost.test.open [(\"side\", \"right\")] 1",
            "waypost.test.width [] 3",
        ];
        assert_eq!(shown(&door), expected);
        assert_eq!(door.descriptors().len(), 3);
        assert_eq!(door.descriptors()[1].kind, Kind::Gauge);
        assert_eq!(shown(&Window::default()), ["waypost.test.broken [] 0"]);
    }
}
