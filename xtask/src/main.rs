//! What a person does to this repository is a verb here: `cargo xtask VERB`.

mod attack;
mod bench;
mod book;
mod cargo;
mod chaos;
mod demo;
mod deny;
mod docs;
mod fuzz;
mod guest;
mod oracle;
mod package;
mod paint;
mod picture;
mod progress;
mod setup;
mod systemd;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a person does to this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Find or install what building, the demo and the tests need
    Setup {
        /// Only report; exit 1 if something is missing
        #[arg(long)]
        check: bool,
    },
    /// Filter real traffic between network namespaces and show what passes
    Demo {
        /// Stop after the check that every path is open without the filter
        #[arg(long)]
        unfiltered: bool,
        /// With what is there, in SGD_BIN_DIR: nothing is installed or built
        #[arg(long)]
        prebuilt: bool,
    },
    /// Let real attackers' and everyday programs loose on the filter and count what comes through
    Attack(attack::Options),
    /// Build everything and run all tests, or those whose names contain a FILTER
    Test {
        filter: Vec<String>,
    },
    /// Let the fuzz targets run, each for a while; exit 1 if one fails
    Fuzz(fuzz::Fuzz),
    /// Hold the filter against an oracle in very many random cases; exit 1 if they differ
    Oracle(oracle::Oracle),
    /// Break the daemon under traffic, again and again; exit 1 if that costs a connection or a wrong verdict
    Chaos(chaos::Chaos),
    Bench(bench::Bench),
    /// Run the demo and a choice of the tests in the kernels that people run; exit 1 if one fails
    VmTest(vm::VmTest),
    /// Boot two virtual machines behind taps and see that the filter does with them what it should; exit 1 if not
    GuestTest(guest::GuestTest),
    /// Make a Debian package
    Package(package::Package),
    /// Install the package where a real systemd runs, and break it there: needs root
    SystemdTest(systemd::SystemdTest),
    /// Hold the crates of other people to deny.toml: licences, sources, duplicates
    Deny,
    /// Write the pages of docs/ that are made from the code
    Docs {
        /// Record the picture of the demo instead: runs the demo
        #[arg(long)]
        picture: bool,
    },
    /// Make the book of docs/, to be read in a browser
    Book,
    /// Run clippy over the kernel side, by the toolchain that builds it
    ClippyBpf,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Setup { check: true } => setup::check().map(success),
        Verb::Setup { check: false } => setup::install().map(success),
        Verb::Demo { unfiltered, prebuilt } => demo::run(unfiltered, prebuilt).map(success),
        Verb::Attack(options) => attack::run(&options).map(success),
        Verb::Test { filter } => test::run(&filter),
        Verb::Fuzz(fuzz) => fuzz.run(),
        Verb::Oracle(oracle) => oracle.run(),
        Verb::Chaos(chaos) => chaos.run(),
        Verb::Bench(bench) => bench.run().map(success),
        Verb::VmTest(vm) => vm.run(),
        Verb::GuestTest(guest) => guest.run().map(success),
        Verb::Docs { picture: true } => picture::record().map(success),
        Verb::Docs { picture: false } => docs::write().map(success),
        Verb::Book => book::make().map(success),
        Verb::Package(package) => package.run().map(success),
        Verb::SystemdTest(test) => test.run().map(success),
        Verb::Deny => deny::run().map(success),
        Verb::ClippyBpf => cargo::clippy_bpf().map(success),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn success((): ()) -> ExitCode {
    ExitCode::SUCCESS
}
