//! Which existing name a person may have meant.

/// Longer words are not typing mistakes, and comparing them costs the product of their lengths.
const LONGEST: usize = 64;

/// The candidate nearest to `wanted` if it is near enough to be a slip: about one edit in three letters, case ignored.
pub(crate) fn nearest<'c>(wanted: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let letters = wanted.chars().count();
    if letters == 0 || letters > LONGEST {
        return None;
    }
    let folded = wanted.to_lowercase();
    let most = (letters / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| {
            candidate.len() <= LONGEST * 4 && candidate.chars().count().abs_diff(letters) <= most
        })
        .map(|candidate| (strsim::damerau_levenshtein(&folded, &candidate.to_lowercase()), candidate))
        .filter(|&(edits, _)| edits <= most)
        .min_by_key(|&(edits, _)| edits)
        .map(|(_, candidate)| candidate)
}

/// `did you mean …?` for a message, if there is something to mean.
pub(crate) fn did_you_mean<'c>(
    wanted: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<String> {
    nearest(wanted, candidates).map(|name| format!("did you mean \"{name}\"?"))
}

/// The end of a message about a name that there is not.
pub(crate) fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

/// `"a", "b" or "c"`.
pub(crate) fn one_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_finds_none() {
        let names = ["web-server", "database", "bastion"];
        assert_eq!(nearest("web-servr", names), Some("web-server"));
        assert_eq!(nearest("BASTION", names), Some("bastion"));
        assert_eq!(nearest("batsion", names), Some("bastion"));
        assert_eq!(nearest("kubernetes", names), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), names), None);
    }

    #[test]
    fn lists_read_as_a_sentence() {
        assert_eq!(one_of(&["a"]), "\"a\"");
        assert_eq!(one_of(&["a", "b", "c"]), "\"a\", \"b\" or \"c\"");
    }
}
