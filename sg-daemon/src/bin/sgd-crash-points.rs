//! `sgd` with the feature `crash-points`, under a name of its own, so that it never takes the place of the real one.

#[path = "sgd.rs"]
mod sgd;

fn main() -> std::process::ExitCode {
    sgd::main()
}
