//! What control counts.

store::metrics! {
    /// What control did.
    pub struct Metrics {
        pub batches_accepted: counter("waypost.control.batches_accepted", "{batch}", "Batches of observations that are in the engine.");
        pub batches_resend: counter("waypost.control.batches_resend", "{batch}", "Batches that had to be asked for whole.");
        pub batches_refused: counter("waypost.control.batches_refused", "{batch}", "Batches that were refused.");
        pub unknown_targets: counter("waypost.control.unknown_targets", "{observation}", "Observations forgotten because nobody asked for their target.");
        pub confirmations: counter("waypost.control.confirmations", "{request}", "Suspicions that were passed on to the other vantages.");
        pub shards_written: counter("waypost.control.shards_written", "{write}", "Shards of observations written to the engine.");
        pub verdicts_written: counter("waypost.control.verdicts_written", "{write}", "Shards of verdicts written to the engine.");
        pub adoptions: counter("waypost.control.adoptions", "{adoption}", "Times the verdicts of another site were adopted.");
        pub answers_refused: counter("waypost.control.answers_refused", "{answer}", "Verdicts of other sites that could not be used.");
        pub exchange_failures: counter("waypost.control.exchange_failures", "{question}", "Questions to other sites without an answer that could be taken.");
        pub exchange_refused: counter("waypost.control.exchange_refused", "{answer}", "Answers of other sites that were wrong or too new.");
        pub orders_taken: counter("waypost.control.orders_taken", "{order}", "Records of orders taken from other sites.");
        pub configurations_copied: counter("waypost.control.configurations_copied", "{configuration}", "Configurations copied from other sites.");
        pub epochs_founded: counter("waypost.control.epochs_founded", "{epoch}", "Epochs founded above those of sites that joined.");
        pub epochs_refused: counter("waypost.control.epochs_refused", "{question}", "Questions of other sites for a higher epoch that were refused.");
        pub engine_failures: counter("waypost.control.engine_failures", "{call}", "Engine calls of control that failed.");
        pub locks_held: gauge("waypost.control.locks_held", "{lock}", "Locks this control holds: it drives drains, it publishes verdicts.");
        pub drains_active: gauge("waypost.control.drains_active", "{drain}", "Drains that this control drives.");
        pub drains_done: counter("waypost.control.drains_done", "{drain}", "Drains that this control brought to their end.");
        pub drains_unproven: counter("waypost.control.drains_unproven", "{drain}", "Drains that went on without the receipt of a gateway.");
        pub drains_copied: counter("waypost.control.drains_copied", "{record}", "Records of other sites' drains that this control copied.");
        pub hook_calls: counter("waypost.control.hook_calls", "{call}", "Calls of drain hooks.");
        pub hook_failures: counter("waypost.control.hook_failures", "{call}", "Calls of drain hooks that were not answered with 2xx.");
    }
}

#[cfg(test)]
mod tests {
    use store::metrics::Source as _;

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
