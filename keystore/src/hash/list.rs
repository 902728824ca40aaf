//! A small hash as a list: `field length, field, value length, value`, pair after pair, in order of
//! insertion.
//!
//! Lengths are LEB128 varints. Redis's limits (128 pairs of at most 64 bytes) keep a list short enough to be
//! searched from its start. It is changed in a copy in DRAM; who stores it back compares, so that the redo
//! log gets what has changed and no more.

/// One pair, and where it is in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair<'a> {
    pub field: &'a [u8],
    pub value: &'a [u8],
    start: usize,
    value_start: usize,
    end: usize,
}

/// The pairs of a list, in order.
#[derive(Clone, Debug)]
pub(crate) struct Pairs<'a> {
    list: &'a [u8],
    at: usize,
}

/// The pairs of `list`. Ends at the first pair that runs over the end, which only a damaged image has.
pub(crate) fn pairs(list: &[u8]) -> Pairs<'_> {
    Pairs { list, at: 0 }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Pair<'a>;

    #[inline]
    fn next(&mut self) -> Option<Pair<'a>> {
        let start = self.at;
        let (field_len, field_start) = read_len(self.list, start)?;
        let field = self.list.get(field_start..field_start.checked_add(field_len)?)?;
        let (value_len, bytes_start) = read_len(self.list, field_start + field_len)?;
        let value = self.list.get(bytes_start..bytes_start.checked_add(value_len)?)?;
        self.at = bytes_start + value_len;
        Some(Pair { field, value, start, value_start: field_start + field_len, end: self.at })
    }
}

impl Pairs<'_> {
    /// How far the pairs seen so far reach.
    pub fn position(&self) -> usize {
        self.at
    }
}

#[inline]
fn read_len(list: &[u8], at: usize) -> Option<(usize, usize)> {
    let first = *list.get(at)?;
    if first < 0x80 {
        return Some((usize::from(first), at + 1));
    }
    let (mut len, mut shift, mut at) = (usize::from(first & 0x7F), 7, at + 1);
    loop {
        let byte = *list.get(at)?;
        at += 1;
        len |= usize::from(byte & 0x7F).checked_shl(shift)?;
        if byte < 0x80 {
            return Some((len, at));
        }
        shift += 7;
    }
}

fn push_len(list: &mut Vec<u8>, mut len: usize) {
    while len >= 0x80 {
        list.push(len as u8 | 0x80);
        len >>= 7;
    }
    list.push(len as u8);
}

/// The pair of a field.
#[inline]
pub(crate) fn find<'a>(list: &'a [u8], field: &[u8]) -> Option<Pair<'a>> {
    pairs(list).find(|pair| pair.field == field)
}

/// Adds a pair whose field is not there.
pub(crate) fn push(list: &mut Vec<u8>, field: &[u8], value: &[u8]) {
    push_len(list, field.len());
    list.extend_from_slice(field);
    push_len(list, value.len());
    list.extend_from_slice(value);
}

/// Gives a field a value and returns whether it is new.
pub(crate) fn set(list: &mut Vec<u8>, field: &[u8], value: &[u8]) -> bool {
    let Some(pair) = find(list, field) else {
        push(list, field, value);
        return true;
    };
    let (from, to) = (pair.value_start, pair.end);
    let mut bytes = Vec::with_capacity(value.len() + 4);
    push_len(&mut bytes, value.len());
    bytes.extend_from_slice(value);
    list.splice(from..to, bytes);
    false
}

/// Removes a field and returns whether it was there.
pub(crate) fn remove(list: &mut Vec<u8>, field: &[u8]) -> bool {
    let Some(pair) = find(list, field) else { return false };
    let (from, to) = (pair.start, pair.end);
    list.drain(from..to);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_the_order_of_insertion() {
        let mut list = Vec::new();
        let long = vec![b'x'; 300];
        assert!(set(&mut list, b"b", b"1"));
        assert!(set(&mut list, b"a", &long));
        assert!(set(&mut list, b"", b""));
        assert!(!set(&mut list, b"b", b"a longer value"));
        let fields: Vec<_> = pairs(&list).map(|pair| (pair.field.to_vec(), pair.value.to_vec())).collect();
        let expected: [(&[u8], &[u8]); 3] = [(b"b", b"a longer value"), (b"a", &long), (b"", b"")];
        assert!(fields.iter().map(|(f, v)| (&f[..], &v[..])).eq(expected));
        assert!(remove(&mut list, b"a") && !remove(&mut list, b"a"));
        assert_eq!(pairs(&list).count(), 2);
    }

    #[test]
    fn a_cut_off_list_ends_early_and_does_not_panic() {
        let mut list = Vec::new();
        push(&mut list, b"field", &[7; 200]);
        for len in 0..list.len() {
            assert_eq!(pairs(&list[..len]).count(), 0);
        }
    }
}
