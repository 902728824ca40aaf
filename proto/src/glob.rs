//! Glob patterns as Redis understands them: `KEYS`, `SCAN … MATCH`, `CONFIG GET`, `PSUBSCRIBE`, `COMMAND LIST`.
//!
//! `*` is any run of bytes, `?` any one byte, `[a-z]` and `[^a-z]` a set, `\x` the byte `x` itself. There is no
//! path separator and no brace expansion. An unclosed `[` is closed by the end of the pattern.
//!
//! The matcher is iterative and keeps one point to fall back to: the last `*` met. That is enough, because when
//! the rest of a pattern matches nowhere behind its last `*`, giving an earlier `*` more bytes only makes the
//! text behind shorter. So the cost is bounded by `pattern × text` and no pattern can exhaust the stack, whatever
//! a client sends.
//!
//! Two oddities of Redis are kept on purpose: `*` does not match the empty text (commands that mean "everything"
//! test for the pattern `*` first), and the bounds of a range compare as signed bytes.

/// Whether `pattern` matches the whole of `text`, byte for byte.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    run::<false>(pattern, text)
}

/// As [`matches`], with ASCII letters compared regardless of case.
#[must_use]
pub fn matches_ignore_case(pattern: &[u8], text: &[u8]) -> bool {
    run::<true>(pattern, text)
}

fn run<const NOCASE: bool>(pattern: &[u8], text: &[u8]) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let (mut p, mut t) = (0, 0);
    // The pattern behind the last `*`, and where in the text it was last tried.
    let mut fallback: Option<(usize, usize)> = None;
    loop {
        let matched = if t == text.len() {
            p += pattern[p..].iter().take_while(|&&b| b == b'*').count();
            if p == pattern.len() {
                return true;
            }
            None
        } else if pattern.get(p) == Some(&b'*') {
            p += pattern[p..].iter().take_while(|&&b| b == b'*').count();
            if p == pattern.len() {
                return true;
            }
            fallback = Some((p, t));
            continue;
        } else {
            element::<NOCASE>(pattern, p, text[t])
        };
        if let Some(next) = matched {
            p = next;
            t += 1;
            continue;
        }
        match fallback {
            Some((after_star, from)) if from + 1 < text.len() => {
                p = after_star;
                t = from + 1;
                fallback = Some((p, t));
            }
            _ => return false,
        }
    }
}

/// Matches one byte against the element at `p`; returns where the next element starts, or `None` for a mismatch.
fn element<const NOCASE: bool>(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => set::<NOCASE>(pattern, p + 1, byte),
        b'\\' if p + 1 < pattern.len() => equal::<NOCASE>(pattern[p + 1], byte).then_some(p + 2),
        literal => equal::<NOCASE>(literal, byte).then_some(p + 1),
    }
}

/// Matches one byte against the set whose first byte behind the `[` is at `p`.
fn set<const NOCASE: bool>(pattern: &[u8], mut p: usize, byte: u8) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut found = false;
    loop {
        match &pattern[p..] {
            // An escaped byte compares exactly, even where case is ignored.
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                p += 2;
            }
            [b']', ..] => {
                p += 1;
                break;
            }
            [] => break,
            [start, b'-', end, ..] => {
                let fold = |b: u8| (if NOCASE { b.to_ascii_lowercase() } else { b }) as i8;
                // The bounds are put in order before their case is folded.
                let (low, high) = if (*start as i8) > (*end as i8) { (*end, *start) } else { (*start, *end) };
                found |= (fold(low)..=fold(high)).contains(&fold(byte));
                p += 3;
            }
            [literal, ..] => {
                found |= equal::<NOCASE>(*literal, byte);
                p += 1;
            }
        }
    }
    (found != negated).then_some(p)
}

fn equal<const NOCASE: bool>(a: u8, b: u8) -> bool {
    if NOCASE { a.eq_ignore_ascii_case(&b) } else { a == b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_as_the_manual_says() {
        for (pattern, text, expected) in [
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h*llo", "hllo", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hbllo", true),
            (r"h\*llo", "h*llo", true),
            (r"h\*llo", "hello", false),
            ("*", "x", true),
            ("*", "", false),
            ("", "", true),
            ("", "x", false),
            ("a*", "a", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*c", "xxaxxbxx", false),
            ("[abc", "b", true),
            ("[", "b", false),
            ("[^", "b", true),
            (r"\", r"\", true),
            (r"[\]]", "]", true),
            ("a**b", "ab", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} against {text}");
        }
    }

    #[test]
    fn case_is_ignored_only_when_asked() {
        assert!(matches_ignore_case(b"HeLL[A-P]*", b"hellO world"));
        assert!(!matches(b"HeLL[A-P]*", b"hellO world"));
    }

    #[test]
    fn hostile_pattern_costs_no_more_than_the_product_of_lengths() {
        let pattern = b"*a".repeat(2_000);
        let text = vec![b'a'; 1_999];
        assert!(!matches(&pattern, &text));
        assert!(matches(&b"*".repeat(1 << 20), b"x"));
    }

    /// The recursive definition, as a model: tries every length for every `*`.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([], _) => false,
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|n| model(rest, &text[n..])),
            (_, []) => false,
            (_, [byte, rest @ ..]) => {
                element::<false>(pattern, 0, *byte).is_some_and(|next| model(&pattern[next..], rest))
            }
        }
    }

    proptest! {
        #[test]
        fn one_fallback_point_is_enough(pattern in r"[ab*?\[\]\\^-]{0,9}", text in "[ab]{1,9}") {
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), model(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
