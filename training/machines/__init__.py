"""What the commands that train classic machines share: tasks, stories, machines, plots."""
