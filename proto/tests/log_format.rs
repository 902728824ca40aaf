//! Holds `docs/log-format.md` against the code: every field's offset and size, every constant, flag and kind.

use std::collections::BTreeMap;
use std::mem::offset_of;

use farkeep_proto::logfile::{self, RawIdentity, RawReign, RawState};
use farkeep_proto::redo::{self, ExtendedKind, Flags, RawHeader};
use farkeep_proto::window;

const DOCUMENT: &str = include_str!("../../docs/log-format.md");

/// The rows of the tables under a heading that contains `heading`, as cells without back quotes.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let start = DOCUMENT.lines().position(|line| line.starts_with('#') && line.contains(heading));
    let start = start.unwrap_or_else(|| panic!("no heading '{heading}'"));
    let section = DOCUMENT.lines().skip(start + 1).take_while(|line| !line.starts_with('#'));
    let rows = section.filter(|line| line.starts_with("| ") && !line.contains("|---"));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect())
        .collect()
}

/// The layout that the document gives a structure: field to (offset, size).
fn documented(name: &str, len: usize) -> BTreeMap<String, (usize, usize)> {
    let heading = format!("`{name}`, {len} bytes");
    let fields = rows(&heading).into_iter().filter_map(|row| {
        let (offset, size) = (row[0].parse().ok()?, row[1].parse().ok()?);
        Some((row[2].clone(), (offset, size)))
    });
    fields.collect()
}

macro_rules! assert_layout {
    ($type:ident { $($field:ident),* $(,)? }) => {{
        // Naming every field keeps the list complete: the pattern does not compile without one.
        fn fields(value: $type) -> [(&'static str, usize, usize); [$(stringify!($field)),*].len()] {
            let $type { $($field),* } = value;
            [$((stringify!($field), offset_of!($type, $field), size_of_val(&$field))),*]
        }
        let code = fields(<$type as zerocopy::FromZeros>::new_zeroed());
        let code: BTreeMap<_, _> = code.into_iter().map(|(name, at, len)| (name.to_owned(), (at, len))).collect();
        assert_eq!(documented(stringify!($type), size_of::<$type>()), code, stringify!($type));
    }};
}

#[test]
fn every_field_is_where_the_document_says() {
    assert_layout!(RawHeader { crc, len, lsn, prev_crc, epoch, committed_delta, flags, range_count });
    assert_layout!(RawIdentity {
        magic,
        format_version,
        reserved,
        node_id,
        ring_len,
        segment_len,
        padding,
        crc,
    });
    assert_layout!(RawState {
        crc,
        history_len,
        seq,
        dataset_id,
        checkpoint_lsn,
        checkpoint_crc,
        checkpoint_epoch,
        oldest_lsn,
        promised_epoch,
        flags,
        image_len,
        sync_cursor,
        followed_epoch,
        promised_claim,
        padding,
        history,
    });
    assert_layout!(RawReign { epoch, replid, start_lsn });
}

#[test]
fn every_constant_has_the_value_that_the_document_gives() {
    let code: [(&str, u64); 10] = [
        ("FORMAT_VERSION", redo::FORMAT_VERSION.into()),
        ("HEADER_LEN", redo::HEADER_LEN as u64),
        ("RECORD_ALIGN", redo::RECORD_ALIGN as u64),
        ("MIN_ROOM", redo::MIN_ROOM),
        ("RANGE_HEADER_LEN", redo::RANGE_HEADER_LEN as u64),
        ("EXTENDED_RANGE_HEADER_LEN", redo::EXTENDED_RANGE_HEADER_LEN as u64),
        ("COMMITTED_DELTA_UNIT", redo::COMMITTED_DELTA_UNIT),
        ("MAX_RANGES", redo::MAX_RANGES as u64),
        ("MAX_SHORT_RANGE_LEN", redo::MAX_SHORT_RANGE_LEN as u64),
        ("MAX_REIGNS", logfile::MAX_REIGNS as u64),
    ];
    let documented: Vec<_> =
        rows("Positions").into_iter().skip(1).map(|row| (row[0].clone(), row[1].clone())).collect();
    assert_eq!(documented, code.map(|(name, value)| (name.to_owned(), value.to_string())));
    let places: [(&str, u64); 12] = [
        ("IDENTITY_AT", logfile::IDENTITY_AT),
        ("STATE_AT[0]", logfile::STATE_AT[0]),
        ("STATE_AT[1]", logfile::STATE_AT[1]),
        ("REPLAY_LIMIT_AT", logfile::REPLAY_LIMIT_AT),
        ("WINDOW_AT", logfile::WINDOW_AT),
        ("STATE_MID_SYNC", logfile::STATE_MID_SYNC.into()),
        ("TAIL_CELL_AT", window::TAIL_CELL_AT),
        ("TAIL_CELL_LEN", window::TAIL_CELL_LEN as u64),
        ("STAGING_AT", window::STAGING_AT),
        ("STAGING_SLOT_LEN", window::STAGING_SLOT_LEN),
        ("RING_AT", window::RING_AT),
        ("WINDOW_PAD", window::WINDOW_PAD),
    ];
    for (name, value) in places {
        let expected = format!("`{name}` = {value}");
        let found = DOCUMENT
            .match_indices(&expected)
            .any(|(at, text)| !DOCUMENT[at + text.len()..].starts_with(|next: char| next.is_ascii_digit()));
        assert!(found, "the document does not say {expected}");
    }
    assert!(DOCUMENT.contains(&format!("`STAGING_SLOTS` = {} ", window::STAGING_SLOTS)));
    assert_eq!(&logfile::MAGIC, b"FARKLOG\0");
    assert_eq!(&logfile::MAGIC_UNFINISHED, b"FARKMAKE");
}

#[test]
fn every_flag_and_kind_has_the_number_that_the_document_gives() {
    let flags: BTreeMap<_, _> = rows("`RawHeader`")
        .into_iter()
        .filter(|row| row.len() == 3)
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    let known = [("COMMIT", Flags::COMMIT), ("EPOCH_START", Flags::EPOCH_START)];
    for (name, flag) in known {
        assert_eq!(flags[name], flag.bits().to_string(), "{name}");
    }
    let all = known.iter().fold(Flags::NONE, |all, (_, flag)| all.with(*flag)).bits();
    assert_eq!(flags.len(), known.len() + 1, "two flags and the table's head");
    assert!(
        (0..16).all(|bit| Flags::from_bits(1 << bit).is_some() == (all & 1 << bit != 0)),
        "no flag is left out"
    );
    let kinds = rows("A range");
    for (name, kind) in
        [("Bytes", ExtendedKind::Bytes), ("Fill", ExtendedKind::Fill), ("Grow", ExtendedKind::Grow)]
    {
        let row = kinds.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("no kind {name}"));
        assert_eq!(row[1], (kind as u32).to_string(), "{name}");
    }
    assert_eq!(ExtendedKind::from_number(3), None, "no kind is left out");
}
