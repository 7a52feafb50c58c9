//! What people see: tables on standard output, and the same as JSON.

mod messages;
mod plan;
mod status;
mod table;

pub use messages::requests_line;
pub use plan::{plan_json, plan_text};
pub use status::{Rates, drops_json, drops_text, status_json, status_text, summary_text};
pub use table::Table;
