//! `LCS`: the longest common subsequence of two strings.

use farkeep_proto::resp::Encoder;

use super::parse;
use crate::error::CommandError;
use crate::keystore::ReadCtx;
use crate::string::{StringRef, Text};

type Done = Result<(), CommandError>;

/// Lengths of the common subsequences of all prefixes, `(a + 1) * (b + 1)` of them.
struct Lengths {
    table: Vec<u32>,
    width: usize,
}

impl Lengths {
    fn of(a: &[u8], b: &[u8]) -> Self {
        let width = b.len() + 1;
        let mut table = vec![0u32; (a.len() + 1) * width];
        for (i, &left) in a.iter().enumerate() {
            for (j, &right) in b.iter().enumerate() {
                table[(i + 1) * width + j + 1] = if left == right {
                    table[i * width + j] + 1
                } else {
                    table[i * width + j + 1].max(table[(i + 1) * width + j])
                };
            }
        }
        Self { table, width }
    }

    fn at(&self, i: usize, j: usize) -> u32 {
        self.table[i * self.width + j]
    }
}

/// A stretch that is the same in both: where it begins in each, and its length.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    a: usize,
    b: usize,
    len: usize,
}

/// The stretches of one longest common subsequence, last first.
fn stretches(a: &[u8], b: &[u8], lengths: &Lengths) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    let mut open = false;
    let (mut i, mut j) = (a.len(), b.len());
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            (i, j) = (i - 1, j - 1);
            match found.last_mut().filter(|_| open) {
                Some(stretch) => *stretch = Stretch { a: i, b: j, len: stretch.len + 1 },
                None => found.push(Stretch { a: i, b: j, len: 1 }),
            }
            open = true;
        } else {
            if lengths.at(i - 1, j) > lengths.at(i, j - 1) {
                i -= 1
            } else {
                j -= 1
            }
            open = false;
        }
    }
    found
}

/// `LCS key1 key2 [LEN] [IDX] [MINMATCHLEN min-match-len] [WITHMATCHLEN]`
pub fn lcs(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let not_strings = |_| CommandError::new("ERR The specified keys must contain string values");
    let a = ctx.string(args[1]).map_err(not_strings)?.map(StringRef::text).unwrap_or(Text::Bytes(b""));
    let b = ctx.string(args[2]).map_err(not_strings)?.map(StringRef::text).unwrap_or(Text::Bytes(b""));
    let (mut only_len, mut indexes, mut with_len, mut min_len) = (false, false, false, 0);
    let mut rest = args[3..].iter();
    while let Some(word) = rest.next() {
        if parse::is(word, "IDX") {
            indexes = true;
        } else if parse::is(word, "LEN") {
            only_len = true;
        } else if parse::is(word, "WITHMATCHLEN") {
            with_len = true;
        } else if parse::is(word, "MINMATCHLEN")
            && let Some(number) = rest.next()
        {
            min_len = parse::int(number)?.max(0) as usize;
        } else {
            return Err(CommandError::Syntax);
        }
    }
    if indexes && only_len {
        return Err(CommandError::new("ERR If you want both the length and indexes, please just use IDX."));
    }
    let cells = (a.len() as u64 + 1).saturating_mul(b.len() as u64 + 1);
    if cells.saturating_mul(4) > ctx.ks.limits.max_string_len {
        return Err(CommandError::new(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
        ));
    }
    let lengths = Lengths::of(&a, &b);
    let total = lengths.at(a.len(), b.len());
    if only_len {
        out.int(i64::from(total));
        return Ok(());
    }
    let found = stretches(&a, &b, &lengths);
    if !indexes {
        let common: Vec<u8> =
            found.iter().rev().flat_map(|stretch| &a[stretch.a..stretch.a + stretch.len]).copied().collect();
        out.bulk(&common);
        return Ok(());
    }
    out.map(2);
    out.bulk(b"matches");
    let shown: Vec<_> = found.iter().filter(|stretch| stretch.len >= min_len).collect();
    out.array(shown.len());
    for stretch in shown {
        out.array(if with_len { 3 } else { 2 });
        for start in [stretch.a, stretch.b] {
            out.array(2);
            out.int(start as i64);
            out.int((start + stretch.len - 1) as i64);
        }
        if with_len {
            out.int(stretch.len as i64);
        }
    }
    out.bulk(b"len");
    out.int(i64::from(total));
    Ok(())
}
