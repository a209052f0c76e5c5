"""Dependencies of the routes for plugins."""

from dataclasses import dataclass

from modelyard.plugins.host import PluginHost
from modelyard.plugins.market import Market
from modelyard.tenant_plugins.credentials import PluginCredentials
from modelyard.tenant_plugins.debug_plugins import DebuggedPlugins
from modelyard.tenant_plugins.endpoints import PluginEndpoints
from modelyard.tenant_plugins.installations import PluginInstallations
from modelyard.tenant_plugins.packages import PluginPackages
from modelyard.tenant_plugins.plugins import Plugins
from modelyard.tenant_plugins.subscriptions import PluginSubscriptions


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginDependencies:
    """The services that the plugin routes work with, bundled for their construction."""

    host: PluginHost
    plugins: Plugins
    packages: PluginPackages
    installations: PluginInstallations
    endpoints: PluginEndpoints
    subscriptions: PluginSubscriptions
    credentials: PluginCredentials
    debugged: DebuggedPlugins
    market: Market
