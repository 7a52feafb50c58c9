//! What the runtime tells the nf-manager, and what it answers
