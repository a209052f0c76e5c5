"""What the routes for plugins work with: which a tenant has, how they come and go, what they serve and listen to."""

from dataclasses import dataclass

from modelyard.plugins.host import PluginHost
from modelyard.plugins.market import Market
from modelyard.runtime.debugged_plugins import DebuggedPlugins
from modelyard.runtime.plugin_credentials import PluginCredentials
from modelyard.runtime.plugin_endpoints import PluginEndpoints
from modelyard.runtime.plugin_installations import PluginInstallations
from modelyard.runtime.plugin_packages import PluginPackages
from modelyard.runtime.plugin_subscriptions import PluginSubscriptions
from modelyard.runtime.plugins import Plugins


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginParts:
    host: PluginHost
    plugins: Plugins
    packages: PluginPackages
    installations: PluginInstallations
    endpoints: PluginEndpoints
    subscriptions: PluginSubscriptions
    credentials: PluginCredentials
    debugged: DebuggedPlugins
    market: Market
