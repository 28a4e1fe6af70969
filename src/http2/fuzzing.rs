//! What any bytes must do to the reader of header blocks; see `crate::fuzzing`.

use super::{Block, FieldBlocks, Head, Judge};

/// Whoever spoils what is malformed.
struct Strict;

impl Judge for Strict {
    fn judge(&mut self, block: &mut Block) -> bool {
        let is_malformed = block.flaw.is_some() || block.is_too_large;
        if is_malformed {
            block.spoil();
        }
        is_malformed
    }
}

/// Frames go on as the same bytes however they come, and not as many more than came.
pub(crate) fn field_blocks(bytes: &[u8]) {
    const LIST: usize = 4096;
    let passed = |size: usize| {
        let mut blocks = FieldBlocks::new(Strict, 0, 1024, LIST);
        let (mut passed, mut frames) = (Vec::new(), 0);
        for part in bytes.chunks(size.max(1)) {
            passed.extend(blocks.pass(part, |_| frames += 1));
        }
        (passed, frames)
    };
    let whole = passed(bytes.len());
    for size in [1, 3, 64] {
        assert!(passed(size) == whole, "in parts of {size}");
    }
    let (passed, frames) = whole;
    assert!(frames <= bytes.len() / Head::LENGTH);
    assert!(passed.len() <= bytes.len() + (frames + 1) * 2 * LIST, "{} bytes", passed.len());
}
