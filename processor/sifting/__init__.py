"""No handler sees what its sender did not send, nor what another event has delivered already."""
