"""Records -> one data frame -> tables and figures. Reads run folders only, never imports torch."""
