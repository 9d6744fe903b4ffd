//! The control role: takes observations in, hands work out, drives drains, publishes verdicts.
