// Who the plugin is, on every endpoint.

export const PLUGIN_NAME = 'csi.holdfast.io';
