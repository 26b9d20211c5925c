//! Floor 10: what is answered over HTTP: the chat endpoint and the pages of runs.
