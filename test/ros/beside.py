"""What is done beside a running graph, which has to be waited for in the thread that started it."""

from concurrent.futures import ThreadPoolExecutor

from perception_nodes.graph.supervisor import Supervisor


def beside(nodes, act):
    """Start a graph, act in another thread, stop it; raises what `act` raised."""

    def acting():
        try:
            act(supervisor)
        finally:
            supervisor.stop()

    # The thread is waited for: it is in the domain, too, which is swept when nobody is left.
    with Supervisor(nodes) as supervisor, ThreadPoolExecutor(1) as thread:
        acted = thread.submit(acting)
        supervisor.wait()
    acted.result()
