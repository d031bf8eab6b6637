//! What a page shows of an output, and what there was.

/// `…` alone in a line of a page stands for any lines, in a line for any characters.
const ANYTHING: char = '…';

/// Whether the lines are as shown, one after the other.
pub fn same(shown: &[String], got: &[String]) -> Result<(), String> {
    let shown = plain(shown);
    let got = plain(got);
    if lines_match(&shown, &got) {
        return Ok(());
    }
    Err(format!("the page shows\n{}\nand there was\n{}", indented(&shown), indented(&got)))
}

/// Whether each line that is shown is somewhere in the output, which other things happen to be in, too.
pub fn among(shown: &[String], got: &[String]) -> Result<(), String> {
    let got = plain(got);
    for line in plain(shown) {
        if !is_gap(&line) && !got.iter().any(|there| line_matches(&line, there)) {
            return Err(format!("the page shows\n    {line}\nand there was\n{}", indented(&got)));
        }
    }
    Ok(())
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// Without what differs each time: times, durations in whole seconds, ports that the kernel chose; and without the widths of columns
/// that follow from them, and empty lines at the end.
fn plain(lines: &[String]) -> Vec<String> {
    let mut plain: Vec<String> = lines.iter().map(|line| plain_line(line)).collect();
    while plain.last().is_some_and(String::is_empty) {
        plain.pop();
    }
    plain
}

fn plain_line(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let digits = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let one = |(index, word): (usize, &&str)| {
        if word.len() == 15 && word.as_bytes()[2] == b':' && word.as_bytes()[8] == b'.' {
            return "TIME".to_owned();
        }
        if digits(word) && words.get(index + 1) == Some(&"s") {
            return "N".to_owned();
        }
        match word.rsplit_once(':') {
            Some((address, port)) if digits(port) && port.parse::<u32>().is_ok_and(|port| port >= 32768) => {
                format!("{address}:PORT")
            }
            _ => (*word).to_owned(),
        }
    };
    words.iter().enumerate().map(one).collect::<Vec<_>>().join(" ")
}

fn is_gap(line: &str) -> bool {
    line.chars().all(|letter| letter == ANYTHING) && !line.is_empty()
}

fn lines_match(shown: &[String], got: &[String]) -> bool {
    match shown.split_first() {
        None => got.is_empty(),
        Some((line, rest)) if is_gap(line) => (0..=got.len()).any(|skip| lines_match(rest, &got[skip..])),
        Some((line, rest)) => got
            .split_first()
            .is_some_and(|(there, more)| line_matches(line, there) && lines_match(rest, more)),
    }
}

fn line_matches(shown: &str, got: &str) -> bool {
    match shown.split_once(ANYTHING) {
        None => shown == got,
        Some((before, after)) => got.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices()
                .map(|(at, _)| at)
                .chain([rest.len()])
                .any(|at| line_matches(after, &rest[at..]))
        }),
    }
}

#[test]
fn what_differs_from_what_is_shown_is_noticed() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let is_same = |shown: &str, got: &str| same(&lines(shown), &lines(got)).is_ok();
    assert!(is_same("a  b\n…\nend", "a b\nmore\nand more\nend\n\n"));
    assert!(is_same("tap0: … of 16384", "tap0: 3 of 16384"));
    assert!(is_same("13:30:01.000123 tap0 12 s 10.0.0.5:40000", "09:00:00.999999 tap0 3 s 10.0.0.5:51514"));
    assert!(!is_same("port 22", "port 23"));
    assert!(!is_same("10.0.0.5:80", "10.0.0.5:81"));
    assert!(!is_same("a\nb", "a"));
    assert!(!is_same("a", "a\nb"));
    assert!(!is_same("a\n…\nc", "a\nb"));
    assert!(among(&lines("b"), &lines("a\nb\nc")).is_ok());
    assert!(among(&lines("d"), &lines("a\nb\nc")).is_err());
}
