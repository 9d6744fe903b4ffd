//! The list of requirements.
