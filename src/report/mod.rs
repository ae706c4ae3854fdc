//! What a run leaves for its reader: a table in the terminal, `report.json` with stable names, `report.html` to look at.

pub mod charts;
pub mod page;
pub mod summary;
pub mod table;

pub use page::Page;
pub use summary::Report;
pub use table::Table;
