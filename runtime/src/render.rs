//! What people see: tables on standard output, and the same as JSON.

mod drops;
mod fast_path;
mod host_ports;
mod messages;
mod plan;
mod rates;
mod sriov;
mod status;
mod steering;
mod table;

pub use drops::{drops_json, drops_text};
pub(crate) use fast_path::matchers;
pub use host_ports::{HostPort, host_ports_json, host_ports_text};
pub use messages::requests_line;
pub use plan::{plan_json, plan_text};
pub use rates::Rates;
pub use status::{status_json, status_text, summary_text};
pub use table::Table;
