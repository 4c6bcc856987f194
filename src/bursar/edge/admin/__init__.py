"""HTTP for people and programs: keys, budgets, runs, holds, entries; nothing here reaches a provider."""
