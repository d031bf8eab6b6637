//! Every input that is kept, through the body of its target: each corpus in one test, each crash in one of its own name.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::{Arguments, Failed, Trial};
use sg_fuzz_targets::{TARGETS, Target};

/// What a repository should carry of corpora.
const MOST_FILES: usize = 300;
const MOST_BYTES: u64 = 1 << 20;

fn main() {
    let mut trials = vec![
        Trial::test("every_target_has_a_program_and_a_corpus", every_target_has_a_program_and_a_corpus),
        Trial::test("the_corpora_stay_small", the_corpora_stay_small),
    ];
    for &(name, body) in TARGETS {
        trials.push(Trial::test(format!("corpus::{name}"), move || {
            files(&fuzz().join("corpus").join(name)).iter().try_for_each(|input| replay(body, input))
        }));
        for input in files(&fuzz().join("crashes").join(name)) {
            let what = input.file_name().unwrap().to_string_lossy().into_owned();
            trials.push(Trial::test(format!("crash::{name}::{what}"), move || replay(body, &input)));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file in a directory, by name. One that is not there has none: git keeps no empty directories.
fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = directory.read_dir() else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn replay(body: fn(&[u8]), input: &Path) -> Result<(), Failed> {
    let bytes = fs::read(input).unwrap();
    std::panic::catch_unwind(|| body(&bytes)).map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panics");
        Failed::from(format!("{}: {said}", input.display()))
    })
}

fn every_target_has_a_program_and_a_corpus() -> Result<(), Failed> {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _): &Target| name.to_string()).collect();
    let programs = files(&fuzz().join("fuzz_targets"));
    let programs =
        programs.iter().map(|file| file.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(targets, programs, "the list of targets, then the programs");
    for kept in ["corpus", "crashes"] {
        for directory in files(&fuzz().join(kept)) {
            let name = directory.file_name().unwrap().to_string_lossy().into_owned();
            assert!(targets.contains(&name), "{} is of no target", directory.display());
        }
    }
    for target in &targets {
        assert!(!files(&fuzz().join("corpus").join(target)).is_empty(), "{target} has no corpus");
    }
    Ok(())
}

fn the_corpora_stay_small() -> Result<(), Failed> {
    let inputs: Vec<PathBuf> =
        files(&fuzz().join("corpus")).iter().flat_map(|corpus| files(corpus)).collect();
    let bytes: u64 = inputs.iter().map(|input| input.metadata().unwrap().len()).sum();
    assert!(inputs.len() < MOST_FILES && bytes < MOST_BYTES, "{} files, {bytes} bytes", inputs.len());
    Ok(())
}
