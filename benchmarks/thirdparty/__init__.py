"""Models of other people's libraries, each converted in a process of its own and judged by other means."""
