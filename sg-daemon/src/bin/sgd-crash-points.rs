//! `sgd` with the feature `crash-points`, under a name of its own, so that it never takes the place of the real one.

include!("sgd.rs");
