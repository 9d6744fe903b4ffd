//! Control's counters.

use store::metrics::{Count, Descriptor, Sample, Source};

macro_rules! metrics {
    ($($field:ident $kind:ident $name:literal $unit:literal $help:literal;)+) => {
        /// What control did.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $field: Count,)+
        }

        static DESCRIPTORS: &[Descriptor] = &[$(Descriptor::$kind($name, $unit, $help)),+];

        impl Source for Metrics {
            fn descriptors(&self) -> &'static [Descriptor] {
                DESCRIPTORS
            }

            fn collect(&self, emit: &mut dyn FnMut(Sample<'_>)) {
                let values = [$(self.$field.value()),+];
                for (metric, value) in DESCRIPTORS.iter().zip(values) {
                    emit(Sample { metric, labels: &[], value });
                }
            }
        }
    };
}

metrics! {
    batches_accepted counter "waypost.control.batches_accepted" "{batch}" "Batches of observations that are in the engine.";
    batches_resend counter "waypost.control.batches_resend" "{batch}" "Batches that had to be asked for whole.";
    batches_refused counter "waypost.control.batches_refused" "{batch}" "Batches that were refused.";
    unknown_targets counter "waypost.control.unknown_targets" "{observation}" "Observations forgotten because nobody asked for their target.";
    confirmations counter "waypost.control.confirmations" "{request}" "Suspicions that were passed on to the other vantages.";
    shards_written counter "waypost.control.shards_written" "{write}" "Shards of observations written to the engine.";
    verdicts_written counter "waypost.control.verdicts_written" "{write}" "Shards of verdicts written to the engine.";
    engine_failures counter "waypost.control.engine_failures" "{call}" "Engine calls of control that failed.";
    locks_held gauge "waypost.control.locks_held" "{lock}" "Locks this control holds: it drives drains, it publishes verdicts.";
    drains_active gauge "waypost.control.drains_active" "{drain}" "Drains that this control drives.";
    drains_done counter "waypost.control.drains_done" "{drain}" "Drains that this control brought to their end.";
    drains_unproven counter "waypost.control.drains_unproven" "{drain}" "Drains that went on without the receipt of a gateway.";
    hook_calls counter "waypost.control.hook_calls" "{call}" "Calls of drain hooks.";
    hook_failures counter "waypost.control.hook_failures" "{call}" "Calls of drain hooks that were not answered with 2xx.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_described_and_emitted() {
        let metrics = Metrics::default();
        metrics.hook_calls.add(3);
        let mut seen = Vec::new();
        metrics.collect(&mut |sample| seen.push((sample.metric.name, sample.value)));
        assert_eq!(seen.len(), metrics.descriptors().len());
        assert!(seen.contains(&("waypost.control.hook_calls", 3.0)));
        assert!(seen.iter().all(|(name, _)| name.starts_with("waypost.control.")));
    }
}
