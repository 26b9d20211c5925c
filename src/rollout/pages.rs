//! Pages of the KV cache: which rows of the pool belong to whom. A list of pages is a list of row
//! spans, which is what attention takes; keys of a block may lie on two pages, so a prompt's last
//! page is shared as it is and nothing is ever copied. Knows no tensor.

use crate::ops::attention::Span;

/// Rows of a page.
pub const PAGE_ROWS: usize = 16;

/// The pages of a pool.
#[derive(Debug, Clone)]
pub struct Pages {
    /// Free pages, the next one last.
    free: Vec<u32>,
    total: usize,
}

impl Pages {
    /// A pool of `total` pages, all free.
    pub fn new(total: usize) -> Self {
        Pages { free: (0..total as u32).rev().collect(), total }
    }
    /// Pages that `rows` rows take.
    pub const fn needed(rows: usize) -> usize {
        rows.div_ceil(PAGE_ROWS)
    }
    /// Pages that nobody has.
    pub fn free(&self) -> usize {
        self.free.len()
    }
    /// Pages that somebody has.
    pub fn used(&self) -> usize {
        self.total - self.free.len()
    }
    /// Lengthens a table so that it holds `rows` rows; false, and nothing changes, if too few pages
    /// are free.
    #[must_use]
    pub fn grow(&mut self, table: &mut PageTable, rows: usize) -> bool {
        let more = Pages::needed(rows).saturating_sub(table.pages.len());
        if more > self.free.len() {
            return false;
        }
        table.pages.extend(self.free.drain(self.free.len() - more..).rev());
        true
    }
    /// Takes all pages of a table back.
    pub fn release(&mut self, table: &mut PageTable) {
        self.free.extend(table.pages.drain(..).rev());
    }
}

/// The pages of one prompt, or of one completion's own tokens, in order of position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageTable {
    pages: Vec<u32>,
}

impl PageTable {
    /// Row of the pool that holds row `i` of the table.
    pub fn row(&self, i: usize) -> usize {
        self.pages[i / PAGE_ROWS] as usize * PAGE_ROWS + i % PAGE_ROWS
    }
    /// The first `rows` rows as spans of the pool; neighbouring pages are one span.
    pub fn spans(&self, rows: usize) -> Vec<Span> {
        let mut out: Vec<Span> = Vec::new();
        for first in (0..rows).step_by(PAGE_ROWS) {
            let (start, len) = (self.row(first), PAGE_ROWS.min(rows - first));
            match out.last_mut() {
                Some(last) if last.start + last.len == start => last.len += len,
                _ => out.push(Span { start, len }),
            }
        }
        out
    }
}
